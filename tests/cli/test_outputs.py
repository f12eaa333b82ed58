"""Where output goes: names that cannot be meant are refused before any work, and what cannot be written is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import MODEL, refused, run
from tests.processes import ENVIRONMENT


@pytest.mark.parametrize("suffix", [".json", ".textproto", ".onnxtxt", ".onnxtext", ".pbtxt", ".JSON", ".prototxt"])
def test_a_model_is_not_called_like_a_text(suffix: str, chain: Path) -> None:
    before = sorted(chain.iterdir())
    message = str(refused("quantize", "m.onnx", "-c", "s.npz", "-o", f"q{suffix}", "-q"))
    assert f"'{suffix}' would let others read as" in message
    assert "Call it .onnx" in message
    assert sorted(chain.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("-o", "x" * 300 + ".onnx"), "output"),
        (("-o", "x" * 240 + ".onnx"), "file that keeps the plan of a search that fails"),
        (("-o", "q.onnx", "--store", "x" * 250), "journal of the store"),
        (("-o", "q.onnx", "--report", "x" * 300 + ".html"), "report"),
        (("-o", "q.onnx", "--save-config", "x" * 300), "configuration to be saved"),
    ],
    ids=["output", "plan", "journal", "report", "configuration"],
)
def test_a_name_that_becomes_too_long_is_told_before_any_work(
    arguments: tuple[str, ...], what: str, chain: Path
) -> None:
    before = sorted(chain.iterdir())
    message = str(refused("quantize", "m.onnx", "-c", "s.npz", "-b", "size=30%", "-q", *arguments))
    assert message.startswith(f"The name of the {what} '")
    assert "bytes; choose a shorter one." in message
    assert sorted(chain.iterdir()) == before


@pytest.mark.parametrize("output", [".", "..", ""])
def test_a_folder_is_no_output(output: str, chain: Path) -> None:
    assert "is a folder" in str(refused("quantize", "m.onnx", "-c", "s.npz", "-o", output, "-q"))


def test_names_of_our_own_are_free_for_others(chain: Path) -> None:
    (chain / "replaced").write_text("mine")
    run("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-q", "--allow-slower")
    run("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "-q", "--allow-slower", "--overwrite")
    assert (chain / "replaced").read_text() == "mine"
    for name in ("replaced", "results.store", "float.onnx", "hessians"):
        run("quantize", "m.onnx", "-c", "s.npz", "-o", name, "-q", "--allow-slower", "--overwrite")
        assert (chain / name).read_bytes() == (chain / "q.onnx").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "arguments", [("inspect", MODEL, "-q"), ("inspect", MODEL, "-q", "--json"), ("targets",), ("--help",)]
)
def test_a_full_device_is_one_sentence(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "onnxmpq", *arguments]
        ended = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=60, check=False
        )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "Error: The output cannot be written: the disk is full; free some space or choose another place."
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize(
    "arguments", [("inspect", MODEL, "-q"), ("inspect", MODEL, "-q", "--json"), ("targets",), ("--help",)]
)
def test_a_pipe_that_nobody_reads_ends_in_silence(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "onnxmpq", *arguments]
        ended = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_what_an_encoding_does_not_have_is_written_as_its_code() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "onnxmpq", "targets", "ort-cpu"],
        capture_output=True,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0
    assert ended.stdout.isascii()
    assert ended.stderr == b""
