"""Exports agree with what is written on processors that this machine does not have, as far as emulators are here."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.processors import ARM64, HERE, WANTED_DB, X86, exports, measured, network, runners
from onnxmpq.api import inspect
from onnxmpq.artifacts import FLOAT


def test_the_small_network_has_every_kind_of_layer_and_option(tmp_path: Path) -> None:
    model, _ = network()
    units = inspect(model).units
    kinds = [(unit.layers[0].op, unit.layers[0].grouping) for unit in units]
    assert kinds == [
        ("Conv", "dense"),
        ("Conv", "depthwise"),
        ("Conv", "dense"),
        ("MatMul", "dense"),
        ("Gemm", "dense"),
    ]
    assert len({option for unit in units for option in unit.options} - {FLOAT}) == 14


def test_here_every_option_does_what_is_written(tmp_path: Path) -> None:
    made = list(exports("small", *network(), (), tmp_path))
    rows = measured(made, tmp_path, {HERE: runners(None)[HERE]})
    assert len(rows) == 14
    assert all(value is not None and value > WANTED_DB for row in rows for value in row.agreement.values())


@pytest.mark.emulated
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
def test_processors_without_vnni_do_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")  # right for this processor, and more than a Nehalem has
    made = list(exports("small", *network(), ("w8a8", "w4a8", "w8"), tmp_path))
    found = {name: command for name, command in runners(None).items() if name in X86}
    assert set(found) == set(X86)
    rows = measured(made, tmp_path, found)
    assert [row.option for row in rows] == ["w8a8", "w4a8", "w8"]
    for row in rows:
        assert all(value is not None and value > WANTED_DB for value in row.agreement.values()), row


def test_a_file_that_does_something_else_is_seen(tmp_path: Path) -> None:
    made = list(exports("small", *network(), ("w8a8",), tmp_path))
    model = onnx.load(str(made[0].path))
    scale = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("_scale"))
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    onnx.save(model, str(made[0].path))
    (row,) = measured(made, tmp_path, {HERE: runners(None)[HERE]})
    value = row.agreement[HERE]
    assert value is not None
    assert value < WANTED_DB


def test_what_cannot_be_had_is_left_out(tmp_path: Path) -> None:
    made = list(exports("small", *network(), ("w8",), tmp_path))
    found = runners(None)
    assert [found[name] for name in ARM64] == [None, None]
    (row,) = measured(made, tmp_path, {HERE: found[HERE], "cortex-a53": None})
    assert row.agreement["cortex-a53"] is None
