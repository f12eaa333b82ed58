"""Files are written whole or not at all, never one over another, and a killed run leaves the old ones or the new."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import Export, Plan, Verdict
from onnxmpq.disk.files import place, refuse_foreign, refuse_shared, write_whole
from onnxmpq.errors import InputError
from onnxmpq.model.save import save
from onnxmpq.options import VerifyOptions
from onnxmpq.verification.publish import publish
from tests.graphs import feeds_for, layer_chain
from tests.processes import ENVIRONMENT, calls_of, killing, onnxmpq


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder with a model and its samples."""
    model = layer_chain("Conv")
    onnx.save(ir.to_proto(model), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "s.npz", x=np.concatenate([feed["x"] for feed in feeds_for(model)]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- one writer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_leaves_what_was_there(call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "table.json"
    file.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"onnxmpq.disk.files.{call}", fail)
    with pytest.raises(InputError, match=r"^The table '.*table.json' cannot be written: .+\.$"):
        write_whole(file, "new", "table")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("table.json", "old")]


def test_a_link_is_written_through_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_whole(tmp_path / "link.json", "new", "table")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    write_whole(Path(os.devnull), "new", "table")
    assert not Path(os.devnull).is_file()


def test_a_full_device_is_one_sentence(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(InputError, match=r"'/dev/full' cannot be written: the disk is full"):
        write_whole(Path("/dev/full"), "new", "table")


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its name is too long; choose a shorter one"):
        write_whole(tmp_path / ("x" * 300), "new", "table")


def test_what_came_into_being_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.json").write_text("another's")
    with pytest.raises(InputError, match=r"exists\. Choose another name, or give --overwrite"):
        write_whole(tmp_path / "table.json", "mine", "table", overwrite=False)

    def unsupported(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("onnxmpq.disk.files.os.link", unsupported)  # a file system without hard links
    (tmp_path / "draft").write_text("mine")
    with pytest.raises(FileExistsError):
        place(tmp_path / "draft", tmp_path / "table.json", overwrite=False)
    assert (tmp_path / "table.json").read_text() == "another's"
    place(tmp_path / "draft", tmp_path / "new.json", overwrite=False)
    assert (tmp_path / "new.json").read_text() == "mine"


def test_of_two_runs_to_one_output_the_second_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both saw that the name was free; the first has it."""

    def late(export: Any, path: Path, *, overwrite: bool) -> Path:
        path.write_bytes(b"another's")
        return publish(export, path, overwrite=overwrite)

    monkeypatch.setattr("onnxmpq.api.publish", late)
    with pytest.raises(InputError, match=r"The output 'q.onnx' exists"):
        quantize("m.onnx", "s.npz", output="q.onnx", verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0))
    assert Path("q.onnx").read_bytes() == b"another's"
    assert sorted(path.name for path in desk.iterdir()) == ["m.onnx", "q.onnx", "s.npz"]


# ---- one check of all paths ------------------------------------------------------------------------------------------

COLLISIONS: dict[str, tuple[str, ...]] = {
    "report over front": ("pareto", "m.onnx", "-c", "s.npz", "-o", "f.json", "--report", "f.html"),
    "table over store": ("measure", "m.onnx", "-c", "s.npz", "-o", "x.json", "--store", "x.json"),
    "model over store": ("quantize", "m.onnx", "-c", "s.npz", "-o", "x.onnx", "--store", "x.onnx", "-b", "size=60%"),
    "report over plan": ("quantize", "m.onnx", "-c", "s.npz", "-o", "x.onnx", "--report", "x.plan.html"),
    "configuration over model": ("quantize", "m.onnx", "-c", "s.npz", "-o", "x.onnx", "--save-config", "m.onnx"),
    "output over model": ("quantize", "m.onnx", "-c", "s.npz", "-o", "./m.onnx"),
    "output over samples": ("quantize", "m.onnx", "-c", "s.npz", "-o", "s.npz"),
    "store over samples": ("measure", "m.onnx", "-c", "s.npz", "--store", "s.npz"),
    "overrides over plan": ("overrides", "m.onnx", "p.json", "--read", "-o", "p.json"),
    "plan over plan": ("apply", "m.onnx", "q.plan.json", "-c", "s.npz", "-o", "q.onnx"),
}


@pytest.mark.parametrize("name", COLLISIONS)
def test_no_file_of_a_run_takes_the_place_of_another(name: str, desk: Path) -> None:
    (desk / "p.json").write_text("{}")
    (desk / "q.plan.json").write_text(json.dumps(Plan("ort-cpu", "", {}).to_json()))
    before = {path.name: path.read_bytes() for path in desk.iterdir()}
    ended = onnxmpq(*COLLISIONS[name], *(["--overwrite"]))
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ", too." in ended.stderr
    assert "Give each a name of its own." in ended.stderr
    assert {path.name: path.read_bytes() for path in desk.iterdir()} == before


def test_the_library_checks_them_as_well(desk: Path) -> None:
    with pytest.raises(InputError, match=r"The output 'm\.onnx' is the model, too"):
        quantize("m.onnx", "s.npz", output="m.onnx", overwrite=True)
    (desk / "also.onnx").hardlink_to("m.onnx")
    with pytest.raises(InputError, match=r"The output 'also\.onnx' is the model, too"):
        quantize("m.onnx", "s.npz", output="also.onnx", overwrite=True)


def test_all_faults_are_told_at_once() -> None:
    files = {"a": Path("one"), "b": Path("two")}
    with pytest.raises(InputError) as told:
        refuse_shared(files, {"c": Path("one"), "d": Path("two"), "e": None})
    assert "The c 'one' is the a, too. The d 'two' is the b, too." in str(told.value)


def test_a_report_does_not_replace_somebody_elses_numbers(desk: Path) -> None:
    (desk / "mine.json").write_text("{}")
    ended = onnxmpq("quantize", "m.onnx", "-c", "s.npz", "-o", "x.onnx", "--report", "mine.html")
    assert ended.returncode == 2
    assert "keeps its numbers in 'mine.json', which is another file" in ended.stderr
    assert (desk / "mine.json").read_text() == "{}"
    (desk / "mine.html").write_text("a report of before")
    refuse_foreign(desk / "mine.html")


# ---- ended from outside ----------------------------------------------------------------------------------------------


def test_a_terminated_run_leaves_no_folder_and_keeps_what_it_measured(desk: Path) -> None:
    code = (
        "import onnxmpq.search.budgeted, time\nreal = onnxmpq.search.budgeted.within\n"
        "def slow(*a, **k):\n    real(*a, **k)\n    open('measured', 'w').close()\n    time.sleep(60)\n"
        "onnxmpq.search.budgeted.within = slow\nfrom onnxmpq.cli import main; main()"
    )
    given = ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-b", "size=60%", "--effort", "quick", "-q")
    with subprocess.Popen(
        [sys.executable, "-c", code, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as running:
        for _ in range(600):
            if (desk / "measured").exists():
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 143
    assert told.startswith("Terminated: no model was written.")
    assert "the same command with --store q.store goes on" in told
    assert sorted(path.name for path in desk.iterdir()) == ["m.onnx", "measured", "q.store", "s.npz"]


@pytest.mark.parametrize("fails", ["q.onnx", "q.plan.json", None])
def test_old_weights_stay_where_they_are_until_the_new_model_is_there(
    fails: str | None, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model whose weights lie in a file beside it, at every moment there is one with its own weights."""

    def outside(option: str) -> Export:
        folder = Path(tempfile.mkdtemp(dir=desk))
        model = layer_chain("Gemm", seed=len(option))
        save(model, folder / "q.onnx", largest_protobuf=0)
        return Export(Plan("ort-cpu", option, {}), folder / "q.onnx", Verdict("none", ()))

    def weights() -> np.ndarray:
        return onnx.numpy_helper.to_array(onnx.load(desk / "q.onnx").graph.initializer[0])

    publish(outside("one"), desk / "q.onnx", overwrite=False)
    old = weights()
    for option, data in (("again", "q.onnx.2.data"), ("more often", "q.onnx.data")):
        publish(outside(option), desk / "q.onnx", overwrite=True)
        assert [file.name for file in desk.glob("q.onnx*.data")] == [data]
        assert not np.array_equal(weights(), old)
    old = weights()

    def killed(draft: Path, final: Path, *, overwrite: bool) -> None:
        assert np.array_equal(weights(), old if final.name != "q.plan.json" else weights())
        if final.name == fails:
            raise KeyboardInterrupt
        place(draft, final, overwrite=overwrite)

    monkeypatch.setattr("onnxmpq.verification.publish.place", killed)
    with pytest.raises(KeyboardInterrupt) if fails else contextlib.nullcontext():
        publish(outside("at last"), desk / "q.onnx", overwrite=True)
    assert np.array_equal(weights(), old) == bool(fails)
    assert len(list(desk.glob("q.onnx*.data"))) == 1


CALLS = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "fsync")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_killed_at_any_change_of_a_name_there_is_the_old_pair_or_the_new(desk: Path) -> None:
    """strace kills the process at each of its calls that change a name or wait for the disk."""
    first = onnxmpq("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--allow-slower", "-q")
    assert first.returncode == 0, first.stderr
    files = (desk / "q.onnx", desk / "q.plan.json")
    old = tuple(path.read_bytes() for path in files)
    command = ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--allow-slower", "-q", "--overwrite")
    option = ("--option", "w4a8", "--as-asked")
    done = onnxmpq(*command, *option)
    assert done.returncode == 0, done.stderr
    new = tuple(path.read_bytes() for path in files)
    assert old[0] != new[0]
    seen: list[tuple[bool, bool]] = []
    for call, number in calls_of(CALLS, *command, *option, folder=desk):
        for path, content in zip(files, old, strict=True):
            path.write_bytes(content)
        ended = onnxmpq(*command, *option, traced=killing(call, number))
        model = files[0].read_bytes()
        plan = files[1].read_bytes() if files[1].exists() else None
        assert model in (old[0], new[0]), f"killed at {call} {number}: the model is neither the old nor the new one"
        assert plan in (None, old[1] if model == old[0] else new[1]), (
            f"killed at {call} {number}: a plan of another model"
        )
        for left in desk.glob(".onnxmpq-*"):
            shutil.rmtree(left)
        seen += [(model == new[0], plan is not None)] if ended.returncode else []
    assert onnxmpq(*command, *option).returncode == 0
    assert len(seen) >= 6
    assert (False, True) in seen
    assert any(is_new for is_new, _ in seen)
