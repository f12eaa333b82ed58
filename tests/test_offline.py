"""Nothing is reported to anybody: no network is touched, and no file is left outside of what was asked for.

Once inside Python, where no socket can be opened; and once from outside, by what whole processes ask of the system:
what libraries do in their own code is seen there only.
"""

import functools
import os
import re
import socket
import ssl
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmpq
from onnxmpq.options import SearchOptions, VerifyOptions
from tests.small import MODELS, small_model


class TouchedError(Exception):
    """Somebody asked for the network."""


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Deny everything that leads to a network; what was asked for is kept, should somebody catch the error."""
    asked: list[str] = []

    def deny(name: str) -> Any:
        def denied(*given: Any, **_: Any) -> Any:
            asked.append(name)
            raise TouchedError(f"{name}{given}")

        return denied

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "gethostbyname_ex", "socketpair"):
        monkeypatch.setattr(socket, name, deny(name))
    return asked


def test_a_search_and_its_report_touch_no_network(offline: list[str], tmp_path: Path) -> None:
    calibration = {"image": np.load(MODELS / "digits_calibration.npz")["image"][:16]}
    result = onnxmpq.quantize(
        small_model(),
        calibration,
        output=tmp_path / "q.onnx",
        budget=["size=40%"],
        search=SearchOptions(effort="quick"),
        verify=VerifyOptions(speed_budget_s=0.0),
    )
    onnxmpq.write_report(result, tmp_path)
    assert result.path.is_file()
    assert (tmp_path / "report.html").is_file()
    assert not offline


def test_what_is_denied_here_would_be_seen(offline: list[str]) -> None:
    with pytest.raises((TouchedError, OSError)):
        urllib.request.urlopen("http://example.org", timeout=1)
    assert offline
    assert ssl.OPENSSL_VERSION  # loaded before sockets are denied: it derives a class from them


SEARCH = [
    "quantize",
    str(small_model()),
    "-c",
    "s.npz",
    "-o",
    "q.onnx",
    "-b",
    "size=40%",
    "--effort",
    "quick",
]
SEARCH += ["--samples", "12", "--store", "q.store", "--report", "q.html", "--executor", "processes:2", "-q"]
UNIFORM = ["quantize", str(small_model()), "-c", "s.npz", "-o", "v.onnx", "-t", "openvino", "-q"]
SEEN = "socket,connect,sendto,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2"


@functools.cache
def strace() -> list[str]:
    """Return the command that writes down what a process asks of the system; nothing where that cannot be seen."""
    command = ["strace", "-f", "-qq", "-e", f"trace={SEEN}"]
    for more in (["--seccomp-bpf"], []):  # a process stops at no other call then, where strace knows how
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([*command, *more, "true"], capture_output=True, check=True)
            return [*command, *more]
    return []


def asked_of_the_system(arguments: list[str], tmp_path: Path) -> tuple[dict[str, set[str]], list[str]]:
    """Run the command line in a process of its own; return what lies in home and temporary folders, and its calls."""
    places = {name: tmp_path / name for name in ("home", "temporary", "desk")}
    for place in places.values():
        place.mkdir()
    image = np.load(MODELS / "digits_calibration.npz")["image"][:16]
    np.savez(places["desk"] / "s.npz", image=image)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_", "CI", "GITHUB"))}
    root = Path(__file__).parents[1]
    environment = kept | {
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        "PYTHONPATH": os.pathsep.join((str(root), str(root / "passes"))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-c", "from onnxmpq.cli import main; main()", *arguments]
    log = tmp_path / "calls.txt"
    if strace():
        command = [*strace(), "-o", str(log), *command]
    ended = subprocess.run(
        command, cwd=places["desk"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    left = {name: {str(file.relative_to(place)) for file in place.rglob("*")} for name, place in places.items()}
    return left, log.read_text("utf-8").splitlines() if log.is_file() else []


@pytest.mark.parametrize("arguments", [SEARCH, UNIFORM], ids=["a search with workers", "openvino"])
def test_a_process_reports_nothing_and_leaves_nothing_behind(arguments: list[str], tmp_path: Path) -> None:
    left, calls = asked_of_the_system(arguments, tmp_path)
    assert left["home"] == set()
    assert left["temporary"] == set()
    assert {name.split(".")[0].split("/")[0] for name in left["desk"]} == (
        {"s", "q"} if "q.onnx" in arguments else {"s", "v"}
    )
    assert not [call for call in calls if re.search(r"\bAF_INET6?\b", call)]
    made = [call for call in calls if re.search(r"O_CREAT|\b(creat|mkdir|mkdirat)\(", call) and " = -1 " not in call]
    own = re.compile(rf'"({re.escape(str(tmp_path))}/(temporary|desk)/|(\./)?([qvs]\.|\.onnxmpq)|/dev/)')
    assert not [call for call in made if not own.search(call)]
    assert made or not calls  # what is looked for is seen


def test_what_a_library_would_report_is_seen(tmp_path: Path) -> None:
    if not strace():
        pytest.skip("strace is not installed, or may not trace")
    log = tmp_path / "calls.txt"
    code = "import socket; socket.socket().close()"
    subprocess.run([*strace(), "-o", str(log), sys.executable, "-c", code], check=True)
    assert "AF_INET" in log.read_text("utf-8")
