"""The code that a command ends with, and what it says then."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxmpq import __version__
from onnxmpq.cli import main
from onnxmpq.errors import InfeasibleError, InputError, InternalError, RuntimeMissingError, VerifyError
from tests.cli.running import code_of, run
from tests.processes import onnxmpq, python


@pytest.fixture
def desk(chain: Path) -> Path:
    """Work beside a model of two convolutions and its samples."""
    return chain


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("fix it"), 2),
        (RuntimeMissingError("install it"), 2),
        (InfeasibleError("too tight"), 3),
        (VerifyError("does not hold"), 4),
        (InternalError("our fault [see]"), 70),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else str(x),
)
def test_an_error_ends_with_its_code_and_one_line(
    error: BaseException, code: int, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("onnxmpq.api.inspect", raises(error))
    assert code_of(monkeypatch, "inspect", "m.onnx") == code
    shown = capsys.readouterr()
    assert shown.out == ""
    expected = [f"Error: {error}" if code != 130 else "Interrupted: no model was written."]
    if code == 70:
        expected.append(
            "This is a fault of onnxmpq. Please report it with this message and the output of `onnxmpq doctor`."
        )
    assert [line for line in shown.err.splitlines() if line] == expected


def raises(error: BaseException) -> Callable[..., None]:
    """Return a function that raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_anything_else_is_a_bug_and_keeps_its_traceback(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.api.inspect", raises(ZeroDivisionError("bug")))
    monkeypatch.setattr(sys, "argv", ["onnxmpq", "inspect", "m.onnx"])
    with pytest.raises(ZeroDivisionError, match="bug"):
        main()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none.onnx"], "There is no file 'none.onnx'"),
        (["inspect", "s.npz"], "'s.npz' is not an ONNX model"),
        (["inspect", "m.onnx", "-t", "gpu"], "There is no target 'gpu'"),
        (["targets", "gpu"], "There is no target 'gpu'"),
        (["quantize", "m.onnx", "-c", "none.npz", "-o", "q.onnx"], "'none.npz' does not exist"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--option", "w1"], "'w1' is not an option"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "m.onnx"], "The output 'm.onnx' is the model, too."),
        (["quantize", "m.onnx", "-c", "s.npz"], "Missing option '--output'"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--method", "magic"], "no method 'magic'"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--threads", "0"], "0 is not in the range"),
        (["measure", "m.onnx", "-c", "s.npz", "--device", "cudo:0"], "no device 'cudo:0'"),
        (["measure", "m.onnx", "-c", "s.npz", "--device", "cuda:999"], "The device 'cuda:999'"),
        (["apply", "m.onnx", "none.json", "-c", "s.npz", "-o", "q.onnx"], "The plan 'none.json' cannot be read"),
        (["verify", "none.onnx", "--float", "m.onnx", "-c", "s.npz"], "There is no file 'none.onnx'"),
        (["verify", "m.onnx", "--float", "s.npz", "-c", "s.npz"], "'s.npz' is not an ONNX model"),
        (["demo", "--models", "none"], "There are no examples in 'none'"),
        (["nothing"], "No such command 'nothing'"),
        (["quantise", "m.onnx"], "No such command 'quantise'. Did you mean 'quantize'?"),
        (["store", "verfiy", "s.npz"], "No such command 'verfiy'. Did you mean 'verify'?"),
        (["inspect", "m.onnx", "--taget", "generic"], "Did you mean"),
        (["inspect", "m.onnx", "-t", "ort-cup"], "give the path of a .toml file. Did you mean 'ort-cpu'?"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--option", "w8aa8"], "Did you mean 'w8a8'?"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--effort", "quik"], "'quik' is not one of 'quick'"),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--pass", "equalize-layers"], "mean 'equalise-layers'?"),
    ],
)
def test_what_the_caller_can_mend_ends_with_2(
    arguments: list[str],
    message: str,
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(path.name for path in desk.iterdir())
    assert code_of(monkeypatch, *arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert sorted(path.name for path in desk.iterdir()) == before


def test_an_export_that_does_not_hold_ends_with_4(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (desk / "bad.onnx").write_bytes(b"no model")
    assert code_of(monkeypatch, "verify", "bad.onnx", "--float", "m.onnx", "-c", "s.npz", "-q") == 4
    assert capsys.readouterr().err.startswith("Error: 'bad.onnx' is not a valid ONNX model")


def test_every_exit_code_is_explained() -> None:
    shown = run("--help").stdout
    codes = [int(code) for code in re.findall(r"^ +(\d+)  ", shown.partition("Exit codes:")[2], re.MULTILINE)]
    kinds = (InputError, InfeasibleError, VerifyError, InternalError)
    assert codes == [0, *(kind.exit_code for kind in kinds), 130, 141, 143]


def test_an_interrupted_process_ends_with_130(desk: Path) -> None:
    code = (
        "import onnxmpq.api\ndef stop(*_, **__):\n    raise KeyboardInterrupt\nonnxmpq.api.inspect = stop\n"
        "from onnxmpq.cli import main; main()"
    )
    ended = python("-c", code, "inspect", "m.onnx", timeout=60)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert "Interrupted: no model was written." in ended.stderr


def test_help_version_and_no_command_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"onnxmpq, version {__version__}\n"
    assert code_of(monkeypatch, "-h") == 0
    assert code_of(monkeypatch) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["inspect", "m.onnx", "--json", "-q"], 0),
        (["inspect", "none.onnx"], 2),
        (["quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-b", "size=1%", "--samples", "2", "-q"], 3),
        (["verify", "s.npz", "--float", "m.onnx", "-c", "s.npz"], 4),
    ],
)
def test_a_process_ends_with_the_code(arguments: list[str], code: int, desk: Path) -> None:
    ended = onnxmpq(*arguments)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False)
    assert (ended.stdout != "") == (code == 0)
    assert ("Error: " in ended.stderr) == (code != 0)
