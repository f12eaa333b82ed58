"""The comparison of a device with the processor, with the host's memory for a device."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.device import _NETS
from benchmarks.shapes import Graph, _conv, _head

ROOT = Path(__file__).parents[2]


def test_the_host_gives_what_the_processor_gives(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    given = ("--model", "models/digits_cnn.onnx", "--calibration", "models/digits_calibration.npz")
    options = ("--device", "host", "--samples", "16", "--threads", "1", "--json", str(file))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        ran = CliRunner().invoke(main, ["device", *given, *options], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "digits_cnn" in ran.output
    row = json.loads(file.read_text())
    assert (row["samples"], row["worst_loss"], row["worst_plan"]) == (16, 0, 0)
    assert row["local"] < 1e-5
    assert row["ratio"] > 0.1


def tiny(size: int) -> onnx.ModelProto:
    """Build a network of two layers."""
    graph = Graph("tiny", 0)
    return graph.model(size, 10, _head(graph, _conv(graph, "x", (3, 16), 3, act="relu"), 16, 10))


def test_a_net_is_made_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_NETS, "resnet18", tiny)
    options = ("--device", "host", "--model", "resnet18", "--size", "16", "--samples", "3", "--options", "w8a8")
    ran = CliRunner().invoke(main, ["device", *options], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    assert "resnet18" in ran.output


def test_what_cannot_be_compared_is_refused_before_anything_runs() -> None:
    ran = CliRunner().invoke(main, ["device", "--device", "tpu"])
    assert ran.exit_code == 1
    assert "There is no device 'tpu'" in ran.output
    ran = CliRunner().invoke(main, ["device", "--model", "m.onnx"])
    assert ran.exit_code == 2
    assert "A file needs samples" in ran.output
