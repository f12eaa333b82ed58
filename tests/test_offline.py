"""No network is touched: a search and its report go through where no socket can be opened and no name looked up."""

import socket
import ssl
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmpq

MODELS = Path(__file__).parents[1] / "models"


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
        MODELS / "digits_cnn.onnx",
        calibration,
        output=tmp_path / "q.onnx",
        budget=["size=40%"],
        effort="quick",
        speed_budget_s=0.0,
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
