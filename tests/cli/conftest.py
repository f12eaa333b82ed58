"""Folders to work in: one with samples of the embedded examples, one with a small model and its samples."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.verification.verify import verify
from tests.asked import untimed
from tests.cli.running import MODELS
from tests.graphs import feeds_for, layer_chain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with samples, where all tests of a file keep their measurements."""
    place = tmp_path_factory.mktemp("desk")
    with np.load(MODELS / "digits_calibration.npz") as data:
        np.savez(place / "s.npz", image=data["image"][:16])
    return place


@pytest.fixture
def desk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to the folder; no time is spent on timing."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("onnxmpq.api.quantize", untimed)
    return folder


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a model of two convolutions and its samples; no time is spent on timing."""
    model = layer_chain("Conv")
    onnx.save(ir.to_proto(model), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "s.npz", x=np.concatenate([feed["x"] for feed in feeds_for(model)]), labels=np.zeros(4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("onnxmpq.api.quantize", untimed)
    monkeypatch.setattr("onnxmpq.cli.verify.verify", partial(verify, speed_budget_s=0.0))
    return tmp_path
