"""``onnxmpq measure`` and ``onnxmpq store``: what they print, what they refuse, and the memory they take."""

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnxmpq.cli import cli
from onnxmpq.errors import InputError, VerifyError
from onnxmpq.sensitivity.stored.store import Store
from onnxmpq.sensitivity.table import Table
from tests.cli.running import MODELS, ROOT, refused, run
from tests.processes import Running
from tests.small import part

ZOO = Path(os.environ.get("ONNXMPQ_ZOO") or ROOT / ".." / "shared" / "zoo") / "models"
MODEL = str(MODELS / "digits_cnn.onnx")
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with samples."""
    with np.load(ROOT / "models" / "digits_calibration.npz") as data:
        np.savez(tmp_path / "s.npz", image=data["image"][:8])
        np.savez(tmp_path / "many.npz", image=np.concatenate([data["image"]] * 3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def measured(*more: str) -> Result:
    """Measure the embedded model."""
    return run("measure", MODEL, "-c", "s.npz", "--options", "w4a8", "--quiet", *more)


def process(model: str, samples: str, memory: str, *more: str) -> tuple[int, str, str, int]:
    """Measure in a process of its own; return exit code, both outputs and the peak of its memory in bytes."""
    given = ("measure", model, "-c", samples, "--options", "w4a8", "-q", *more, "--memory", memory)
    run = Running(*given, more={"ONNXMPQ_ONE_PROCESS": "1"})
    done = run.wait()
    assert run.peak_bytes > 30e6
    return done.returncode, done.stdout, done.stderr, run.peak_bytes


# ---- measure ---------------------------------------------------------------------------------------------------------


def test_the_costliest_variants_are_printed_and_the_table_is_written(desk: Path) -> None:
    shown = measured("-o", "t.json").stdout
    table = Table.read(desk / "t.json")
    assert "loss kl(logits), 8 samples" in shown
    assert shown.count("w4a8") == 12
    assert f"and {len(table.variants) - 12} more; {len(table.variants)} variants" in shown
    assert "Table: t.json" in shown
    worst = table.variants[int(np.argmax(table.loss))].unit
    assert worst in next(line for line in shown.splitlines() if "w4a8" in line)


def test_json_is_the_table(desk: Path) -> None:
    data = json.loads(measured("--json", "-o", "t.json").stdout)
    assert data == json.loads((desk / "t.json").read_text())
    assert data["samples"] == 8
    assert len(data["gram"]) == len(data["variants"])
    assert data["pairs"] == []


def test_pairs_are_added_on_request(desk: Path) -> None:
    data = json.loads(measured("--json", "--pairs", "--samples", "2").stdout)
    count = len(data["variants"])
    assert len(data["pairs"]) == count * (count - 1) // 2
    assert data["samples"] == 2


def test_progress_says_what_runs_and_how_much_of_it_is_done(desk: Path) -> None:
    errors = run("measure", MODEL, "-c", "s.npz", "--options", "w4a8").stderr
    assert "responses" in errors


def test_a_dry_run_measures_nothing_and_counts_what_a_run_takes(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("measure", str(part("digits_conv")), "-c", "many.npz", "--options", "w8a8,w4a8", "--quiet", "--json")
    told = json.loads(run(*arguments, "--dry-run", "--store", "r.store").stdout)
    assert not (desk / "r.store").exists()
    cost = json.loads(run(*arguments).stdout)["cost"]
    assert told["samples"] == 468
    assert told["variants"] == 20
    assert told["jobs"] == -(-468 // told["batch"]) * 21 == cost["jobs"]
    assert told["full_run_equivalents"] == pytest.approx(cost["full_runs"], abs=0.1)
    assert told["segments"] > 3
    assert told["seconds"] > 0


def test_a_dry_run_says_so_in_words(desk: Path) -> None:
    shown = measured("--dry-run").stdout
    assert re.search(r"18 variants in 19 jobs, worth \d+\.\d runs of the whole model on 8 samples", shown)
    assert "Nothing was measured." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--options", "w4a8,w1"), "'w1' is not an option"),
        (("--options", "w5a5"), "No unit has any of these options"),
        (("--loss", "powre"), "no loss 'powre'. Did you mean 'power'?"),
        (("--loss", "ce"), "Cross-entropy needs labels"),
        (("--outputs", "logit"), "no output 'logit'. Did you mean 'logits'?"),
        (("--memory", "lots"), "'lots' is no amount of memory"),
        (("--memory", "10MB"), "Give --memory"),
        (("--executor", "inlien"), "host>:<port>. Did you mean 'inline'?"),
        (("--executor", "processes:0"), "needs a number of workers"),
        (("--output", "nowhere/t.json"), "does not exist"),
        (("--output", "s.npz"), "The output 's.npz' is the calibration data, too."),
        (("--output", "there.json"), "The output 'there.json' exists. Choose another name, or give --overwrite."),
        (("--output", "."), "The output '.' is a folder."),
        (("--store", "nowhere/r.store"), "no folder"),
        (("--store", "s.npz"), "s.npz"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], message: str, desk: Path) -> None:
    (desk / "there.json").write_text("mine")
    error = refused("measure", MODEL, "-c", "s.npz", "--quiet", *arguments)
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    assert message in str(error)


@pytest.mark.parametrize("option", [("--samples", "-1"), ("--seed", "-1"), ("--threads", "0")])
def test_numbers_out_of_range_are_refused(option: tuple[str, str], desk: Path) -> None:
    done = CliRunner().invoke(cli, ["measure", MODEL, "-c", "s.npz", *option])
    assert done.exit_code == 2
    assert option[0] in done.output


# ---- memory ----------------------------------------------------------------------------------------------------------


def hold(model: str, samples: str, ceilings: tuple[int, ...]) -> None:
    """Check that peaks stay under ceilings, and that the smallest one that is named works."""
    code, _, error, _ = process(model, samples, "50MB")
    named = re.search(r"Give --memory (\d+)MB or more", error)
    assert code == 2
    assert named
    least = int(named[1])
    code, _, error, _ = process(model, samples, f"{least - 1}MB")
    assert (code, f"Give --memory {least}MB" in error) == (2, True)
    for ceiling in (least, *(least + more for more in ceilings)):
        code, out, error, peak = process(model, samples, f"{ceiling}MB", "--json", "--samples", "16")
        assert code == 0, error
        assert json.loads(out)["samples"] == 16
        assert peak < ceiling * 1e6, ceiling


@needs_proc
def test_memory_stays_under_its_ceiling(desk: Path) -> None:
    hold(MODEL, "many.npz", (5,))
    code, _, error, peak = process(MODEL, "many.npz", "4GB", "--samples", "200")
    assert code == 0, error
    given = ("measure", MODEL, "-c", "many.npz", "--samples", "200", "--dry-run", "--json", "-q")
    forecast = json.loads(run(*given).stdout)
    assert peak < forecast["memory_bytes"] < 4e9


@needs_proc
@pytest.mark.zoo
@pytest.mark.skipif(not (ZOO / "cifar_resnet20.onnx").is_file(), reason="no model there")
def test_memory_of_a_real_model_stays_under_its_ceiling(desk: Path) -> None:
    images = np.random.default_rng(0).normal(size=(60, 3, 32, 32)).astype(np.float32)
    np.savez("images.npz", input=images)
    hold(str(ZOO / "cifar_resnet20.onnx"), "images.npz", (20, 80))


# ---- store -----------------------------------------------------------------------------------------------------------


def test_a_store_is_shown(desk: Path) -> None:
    measured("--store", "r.store")
    shown = run("store", "show", "r.store").stdout
    for word in ("r.store", "19 intact", "made for model", "made for batch size"):
        assert word in shown
    data: dict[str, Any] = json.loads(run("store", "show", "r.store", "--json").stdout)
    assert (data["good"], data["damaged"], data["faults"]) == (19, 0, [])
    assert data["seconds"] > 0
    assert data["file_bytes"] == (desk / "r.store").stat().st_size


def test_damage_is_found_and_dropped(desk: Path) -> None:
    measured("--store", "r.store")
    run("store", "verify", "r.store")
    sql = sqlite3.connect("r.store")
    sql.execute("UPDATE results SET seconds = seconds + 1 WHERE rowid = 4")
    sql.commit()
    sql.close()
    error = refused("store", "verify", "r.store")
    assert isinstance(error, VerifyError)
    assert "1 damaged results" in str(error)
    assert "1 results dropped" in run("store", "compact", "r.store").stdout
    run("store", "verify", "r.store")
    with Store.open(Path("r.store"), None) as store:
        before = store.count
    table = json.loads(measured("--store", "r.store", "--json").stdout)
    assert table["cost"]["jobs_run"] == 1
    with Store.open(Path("r.store"), None) as store:
        assert store.count == before + 1


@pytest.mark.parametrize("command", ["show", "verify", "compact"])
def test_a_store_that_is_not_there_is_refused(command: str, desk: Path) -> None:
    error = refused("store", command, "r.store")
    assert error.exit_code == 2
    assert "There is no store 'r.store'" in str(error)
    assert not (desk / "r.store").exists()
