"""Files that are no samples, though they look like it, are one sentence each: no header is believed."""

import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.data.samples import open_samples
from onnxmpq.data.sources import InputSpec
from onnxmpq.errors import InputError
from onnxmpq.options import VerifyOptions
from tests.graphs import layer_chain

SPEC = InputSpec("x", np.dtype(np.float32), ("n", 16, 9, 9))
GOOD = np.random.default_rng(0).normal(size=(4, 16, 9, 9)).astype(np.float32)


def npy(array: np.ndarray) -> bytes:
    """Return an array as a file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: str, content: bytes = b"\0" * 100) -> bytes:
    """Return a .npy with a header of one's own."""
    line = text.encode("latin1")
    line += b" " * (64 - (11 + len(line)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + content


def archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a .npz."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression=compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def patched(offset: int, value: int) -> bytes:
    """Return a .npz with one byte changed in both headers of its member."""
    data = bytearray(archive({"x.npy": npy(GOOD)}))
    for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        data[data.find(mark) + offset + shift] = value
    return bytes(data)


def shaped(shape: str, descr: str = "<f4") -> bytes:
    """Return a .npy that says it has this shape."""
    return header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a member that is text": (".npz", lambda: archive({"x": b"hello"}), "'x' in it is no array"),
    "a member that is called an array": (".npz", lambda: archive({"x.npy": b"hello"}), "'x' in it is no array"),
    "an array called npz": (".npz", lambda: npy(GOOD), "it holds one array; call it .npy"),
    "an archive called npy": (".npy", lambda: archive({"x.npy": npy(GOOD)}), "it holds several arrays; call it .npz"),
    "encrypted": (".npz", lambda: patched(6, 1), "encrypted"),
    "an unknown compression": (".npz", lambda: patched(8, 99), "compression method is not supported"),
    "a petabyte": (
        ".npz",
        lambda: archive({"x.npy": shaped("(1000000000000, 16, 9, 9)")}),
        "5,184,000,000,000,000 bytes",
    ),
    "a mapped petabyte": (".npy", lambda: shaped("(1000000000000, 16, 9, 9)"), "cannot be read"),
    "cut short": (".npz", lambda: archive({"x.npy": shaped("(4, 16, 9, 9)")}), "of which 228 are there"),
    "cut short and mapped": (".npy", lambda: shaped("(4, 16, 9, 9)"), "cannot be read"),
    "nested thousands deep": (".npz", lambda: archive({"x.npy": shaped("(" * 5000 + ")" * 5000)}), "cannot be read"),
    "nested and mapped": (".npy", lambda: shaped("(" * 5000 + ")" * 5000), "cannot be read"),
    "a negative shape": (".npy", lambda: shaped("(-4, 16, 9, 9)"), "cannot be read"),
    "objects": (".npy", lambda: shaped("(4,)", "|O"), "cannot be read"),
    "no type": (".npy", lambda: shaped("(4,)", "nonsense"), "cannot be read"),
    "no shape": (".npz", lambda: archive({"x.npy": header("{'descr': '<f4'}")}), "cannot be read"),
    "empty": (".npz", lambda: b"", "cannot be read"),
    "half a zip": (".npz", lambda: archive({"x.npy": npy(GOOD)})[:-30], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_sample_is_one_sentence(name: str, tmp_path: Path) -> None:
    suffix, content, message = BAD[name]
    file = tmp_path / f"s{suffix}"
    file.write_bytes(content())
    with pytest.raises(InputError) as told:
        open_samples(file, [SPEC])
    text = str(told.value)
    assert text.startswith(f"'{file}' cannot be read: ")
    assert message in text
    assert text.endswith("Save it again with numpy.savez or numpy.save.")
    assert "\n" not in text
    assert len(text) < 400 + len(str(file))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_any_compression_that_zip_has_is_read(compression: int, tmp_path: Path) -> None:
    (tmp_path / "s.npz").write_bytes(archive({"x.npy": npy(GOOD), "notes.txt": b"hello"}, compression))
    found = list(open_samples(tmp_path / "s.npz", [SPEC]))
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in found]), GOOD)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
@pytest.mark.parametrize("what", ["model", "samples", "folder"])
def test_a_pipe_is_not_waited_for(what: str, tmp_path: Path) -> None:
    onnx.save(ir.to_proto(layer_chain("Conv")), str(tmp_path / "m.onnx"))
    os.mkfifo(tmp_path / ("p.onnx" if what == "model" else "p.npz"))
    given = {"model": ("p.onnx", "p.npz"), "samples": ("m.onnx", "p.npz"), "folder": ("m.onnx", ".")}[what]
    code = "import sys, onnxmpq\nonnxmpq.quantize(sys.argv[1], sys.argv[2], output='q.onnx')"
    ended = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert "InputError" in ended.stderr
    assert ("is a device or a pipe" if what == "model" else "samples" if what == "folder" else "a pipe") in ended.stderr


LABELS: dict[str, tuple[list[object], str]] = {
    "below zero": ([0, -1, 0, 0], r"Label 1 is -1\."),
    "far too large": ([0, 10**9, 0, 0], r"go up to 1000000000; the first output has the classes 0 to 1295"),
    "no number": ([0, 0, 0, float("nan")], r"Label 3 is nan"),
    "a fraction": ([0.5, 0, 0, 0], r"Label 0 is 0\.5"),
    "text": (["a", "b", "a", "b"], r"The labels are <U1\. Expected whole numbers"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_name_no_class_are_refused(name: str, tmp_path: Path) -> None:
    labels, message = LABELS[name]
    given = {"x": GOOD, "labels": np.array(labels)}
    model = ir.to_proto(layer_chain("Conv"))
    with pytest.raises(InputError, match=message):
        quantize(
            model, {"x": GOOD}, output=tmp_path / "q.onnx", evaluation=given, verify=VerifyOptions(speed_budget_s=0.0)
        )
    assert list(tmp_path.iterdir()) == []


def test_what_stands_beside_calibration_data_is_not_judged(tmp_path: Path) -> None:
    """Nothing is measured by these labels, which may be targets of a regression."""
    given = {"x": GOOD, "labels": np.array([0.5, -1.0, 2.0, 3.0])}
    result = quantize(
        ir.to_proto(layer_chain("Conv")), given, output=tmp_path / "q.onnx", verify=VerifyOptions(speed_budget_s=0.0)
    )
    assert result.accuracy is None


@pytest.mark.parametrize("name", ["x" * 3000, "x" * 3000 + "/s.npz", "a\0b"])
def test_a_name_that_no_file_can_have_is_one_sentence(name: str) -> None:
    with pytest.raises(InputError, match=r"Calibration data '.*' (does not exist|is no|is neither)|holds no"):
        open_samples(name, [SPEC])
