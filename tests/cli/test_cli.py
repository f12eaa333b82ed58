"""The command line: what it prints and where, and the exit code that says what happened."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import Result

from onnxmpq.artifacts import Plan
from onnxmpq.cli import COMMANDS, cli
from onnxmpq.cli.demo import BUILDS
from onnxmpq.targets import builtin_names
from tests.cli.running import MODELS, run
from tests.graphs import layer_chain
from tests.small import part, small_model


@pytest.fixture
def desk(chain: Path) -> Path:
    """Work beside a model of two convolutions and its samples."""
    return chain


def quantised(*more: str) -> Result:
    """Quantise the model on the desk."""
    return run("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--allow-slower", *more)


def test_quantize_says_what_came_out(desk: Path) -> None:
    shown = quantised("-e", "s.npz", "--option", "w4a8")
    assert (desk / "q.onnx").is_file()
    for word in ("file", "q.onnx", "size", "of float", "accuracy", "4 samples", "speed", "verified", "low-bit kernels"):
        assert word in shown.stdout
    assert Plan.read(desk / "q.plan.json").choices.keys() == {"Conv_0", "Conv_1"}


def test_progress_is_a_line_for_each_stage_where_there_is_no_terminal(desk: Path) -> None:
    lines = quantised().stderr.splitlines()
    stages = [re.fullmatch(r" *\d+\.\d s  (.*)", line) for line in lines]
    assert [match and match[1] for match in stages] == (
        ["load", "normalise", "read calibration data", "calibrate", "lower", "verify", "guard"]
    )


@pytest.mark.parametrize("command", ["quantize", "apply", "inspect", "verify", "demo"])
def test_quiet_prints_nothing_on_standard_error(command: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.cli.demo.BUILDS", BUILDS[:1])  # no search
    quantised()
    arguments = {
        "quantize": ["m.onnx", "-c", "s.npz", "-o", "again.onnx"],
        "apply": ["m.onnx", "q.plan.json", "-c", "s.npz", "-o", "again.onnx"],
        "inspect": ["m.onnx"],
        "verify": ["q.onnx", "--float", "m.onnx", "-c", "s.npz"],
        "demo": ["--models", examples(desk)],
    }
    shown = run(command, *arguments[command], "--quiet")
    assert shown.stderr == ""
    assert shown.stdout


def test_json_of_quantize_is_the_result(desk: Path) -> None:
    data = strict_json(quantised("--json", "-e", "s.npz").stdout)
    assert data["path"] == "q.onnx"
    assert data["file_bytes"] == (desk / "q.onnx").stat().st_size
    assert data["size_share"] == data["file_bytes"] / data["float_file_bytes"] < 0.5
    assert data["plan"] == json.loads((desk / "q.plan.json").read_text())
    assert data["verdict"]["ok"] is True
    assert data["accuracy"]["samples"] == 4


def test_json_of_inspect_is_the_space(desk: Path) -> None:
    data = strict_json(run("inspect", "m.onnx", "--json").stdout)
    macs = 16 * 16 * 9 * 9 * 9
    assert data["total_macs"] == 2 * macs
    assert data["total_bops"] == 2 * macs * 32 * 32
    assert data["total_mem_w_bits"] == 32 * 2 * 16 * 16 * 9
    assert data["float_bytes"] == 4 * 2 * (16 * 16 * 9 + 16)
    first, second = data["units"]
    assert (first["name"], second["layers"], first["op"]) == ("Conv_0", ["Conv_1"], "Conv")
    assert first["options"]["w8a8"] == {"bytes": 2304 + 5 * 16 + 8 * 16, "bops": macs * 64}


def test_the_bytes_of_files_are_told(desk: Path) -> None:
    model = onnx.load("m.onnx")
    for node in model.graph.node:
        node.doc_string = "Traceback (most recent call last):" * 300
    onnx.save(model, "m.onnx")
    file = strict_json(run("inspect", "m.onnx", "--json").stdout)["file"]
    assert sum(file.values()) == (desk / "m.onnx").stat().st_size
    assert file["text"] > 3 * 300 * 34
    assert re.search(
        r"The file of 49\.5 kB: 18\.4 kB weights, 128 B other tensors, 266 B graph, 30\.7 kB text\.",
        run("inspect", "m.onnx").stdout,
    )
    data = strict_json(quantised("--json").stdout)
    assert sum(data["portions"].values()) == data["file_bytes"]
    assert sum(data["float_portions"].values()) == data["float_file_bytes"]
    shown = quantised("--overwrite").stdout
    assert re.search(r"bytes +4\.61 kB weights, .* of text left out; --keep-metadata keeps it\)", shown)
    kept = strict_json(quantised("--overwrite", "--keep-metadata", "--json").stdout)
    assert kept["portions"]["text"] > 3 * 300 * 34
    assert kept["plan"]["keep_metadata"] is True


def test_json_of_targets_and_demo_and_verify(desk: Path) -> None:
    assert [target["name"] for target in strict_json(run("targets", "--json").stdout)] == list(builtin_names())
    assert strict_json(run("targets", "ort-cpu", "--json").stdout)["runtime"] == "onnxruntime"
    quantised()
    checks = strict_json(run("verify", "q.onnx", "--float", "m.onnx", "-c", "s.npz", "--json").stdout)["checks"]
    assert "simulation" in [check["name"] for check in checks]
    shown = strict_json(run("demo", "--json", "--models", examples(desk), "-o", "out").stdout)
    assert [Path(item["path"]).name for item in shown] == [
        f"digits_{kind}.{how}.onnx" for kind in ("cnn", "vit") for how in ("w8a8", "small")
    ]
    for found in (item["accuracy"] for item in shown):  # 24 samples say as much
        assert found["after"] - found["before"] > -0.01 - 2 * found["difference_error"]
    assert all(item["file_bytes"] < item["float_file_bytes"] / 2 for item in shown)


def examples(desk: Path) -> str:
    """Make a folder of the examples with fewer samples, and parts of them in their place."""
    folder = desk / "models"
    folder.mkdir()
    shutil.copy(small_model(), folder / "digits_cnn.onnx")
    shutil.copy(part("digits_attention"), folder / "digits_vit.onnx")
    for name, count in (("calibration", 24), ("evaluation", 1021)):
        with np.load(MODELS / f"digits_{name}.npz") as data:
            np.savez(folder / f"digits_{name}.npz", **{key: data[key][:count] for key in data.files})
    return str(folder)


def strict_json(text: str) -> Any:
    """Read JSON as other languages do: there is no NaN and no Infinity in it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_no_difference_at_all_is_still_json(desk: Path) -> None:
    plan = Plan("ort-cpu", "none", {})
    (desk / "p.json").write_text(json.dumps(plan.to_json()))
    data = strict_json(run("apply", "m.onnx", "p.json", "-c", "s.npz", "-o", "q.onnx", "--json").stdout)
    assert next(check for check in data["verdict"]["checks"] if check["name"] == "simulation")["value"] == "inf"


def test_inspect_shows_units_options_and_reasons(desk: Path) -> None:
    onnx.save(ir.to_proto(layer_chain("Conv", "grouped")), "g.onnx")
    shown = run("inspect", "g.onnx").stdout
    for word in ("target ort-cpu", "Conv_0", "Conv grouped", "float w8-2", "grouped convolutions have no fast integer"):
        assert word in shown
    assert "2 units; " in shown


def test_apply_repeats_a_plan_with_its_ranges(desk: Path) -> None:
    quantised("--ranges", "minmax", "--weight-ranges", "minmax", "--no-bias-correction")
    run("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "again.onnx")
    run("quantize", "m.onnx", "--plan", "q.plan.json", "-c", "s.npz", "-o", "third.onnx")
    run("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "other.onnx", "--bias-correction")
    first, again, third, other = ((desk / f"{name}.onnx").read_bytes() for name in ("q", "again", "third", "other"))
    assert first == again == third != other
    assert Plan.read(desk / "other.plan.json").ranges == (
        {"activations": "minmax", "weights": "minmax", "bias_correction": "True", "rounding": "nearest"}
    )


def test_one_flag_of_numbers_leaves_the_rest_to_the_option_and_the_size_of_the_model(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised("--option", "w4a8", "--ranges", "minmax")
    assert Plan.read(desk / "q.plan.json").ranges["rounding"] == "sequential"
    monkeypatch.setattr("onnxmpq.options.MOST_FITTED_BYTES", 100)
    quantised("--option", "w4a8", "--ranges", "minmax", "--overwrite")
    assert Plan.read(desk / "q.plan.json").ranges["rounding"] == "nearest"


def test_rounding_is_written_to_the_plan_and_read_from_it(desk: Path) -> None:
    quantised("--option", "w4a8", "--rounding", "gptq")
    assert Plan.read(desk / "q.plan.json").ranges["rounding"] == "gptq"
    run("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "again.onnx")
    run("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "other.onnx", "--rounding", "nearest")
    first, again, other = ((desk / f"{name}.onnx").read_bytes() for name in ("q", "again", "other"))
    assert first == again != other


def test_verify_shows_every_check(desk: Path) -> None:
    quantised()
    shown = run("verify", "q.onnx", "--float", "m.onnx", "-c", "s.npz").stdout
    for check in ("loads", "size", "simulation", "sqnr", "kernels", "speed"):
        assert f" {check} " in shown


@pytest.mark.parametrize("name", builtin_names())
def test_targets_lists_each(name: str, desk: Path) -> None:
    assert name in run("targets").stdout


def test_names_in_brackets_are_printed_as_they_are(desk: Path) -> None:
    (desk / "m.onnx").rename("[bold]m.onnx")
    shown = run("quantize", "[bold]m.onnx", "-c", "s.npz", "-o", "[red]q.onnx", "--allow-slower")
    assert "[red]q.onnx" in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = run(command, "--help").stdout
    assert shown.startswith(f"Usage: cli {command}")
    assert command in run("--help").stdout
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    assert found.get_short_help_str(200).split()[0] == COMMANDS[command].split()[0]
    for parameter in found.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"--{parameter.name} of {command} has no help"
