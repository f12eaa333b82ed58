"""Reports of real models in a real browser, from the command line on: everything drawn, nothing asked of anybody."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks import zoo
from onnxmpq.cli import main
from onnxmpq.runtimes import get_runtime
from tests.asked import untimed
from tests.report.pages import BARS, CELLS, PLANS, Seen, opened
from tests.small import MODELS, part

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
MOST_BYTES = 3_000_000
FEW = 24
"""Samples that are enough for a page."""
LIGHT, DARK, PHONE = (1200, False), (1200, True), (390, False)


def reported(
    model: Path, samples: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, size: str, method: str = "gram"
) -> Path:
    """Search a model within a size from the command line, and return the page of the report; nothing is timed."""
    monkeypatch.setattr("onnxmpq.api.quantize", untimed)
    told = [
        "-b",
        f"size={size}",
        "--method",
        method,
        "--samples",
        "8",
        "--effort",
        "quick",
        "--allow-slower",
        "--quiet",
    ]
    files = ["-c", str(samples), "-o", str(folder / "out.onnx"), "--report", str(folder)]
    monkeypatch.setattr(sys, "argv", ["onnxmpq", "quantize", str(model), *files, *told])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return folder / "report.html"


def check(browser: "Browser", page: Path, seen: Seen, *readers: tuple[int, bool]) -> None:
    """Open a page as its readers do, of a width and in light or dark; every figure is drawn, and points answer."""
    numbers = json.loads(page.with_suffix(".json").read_text("utf-8"))
    assert page.stat().st_size < MOST_BYTES
    for width, dark in readers:
        opening = opened(browser, page, seen, width=width, dark=dark)
        assert opening.locator(PLANS).count() == len(numbers["plans"])
        assert opening.locator(BARS).count() == len(numbers["units"]) > 0
        assert opening.locator("#figure-alone .alone > *").count() == len(numbers["alone"]) > 0
        assert opening.locator(CELLS).count() == 1
        assert opening.locator('svg [d*="NaN"], svg [cx="NaN"], svg [y="NaN"]').count() == 0
        last = str(len(numbers["plans"]) - 1)
        opening.locator(f'{PLANS}[data-plan="{last}"]').focus()
        opening.keyboard.press("Enter")
        assert opening.locator("select.plans").first.input_value() == last
        assert opening.evaluate("document.documentElement.scrollWidth") <= width
        opening.close()
    assert not seen.faults


@pytest.mark.parametrize("name", ["digits_conv", "digits_attention"])
def test_parts_of_embedded_models(
    name: str, browser: "Browser", seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(MODELS / "digits_calibration.npz") as data:
        np.savez(tmp_path / "samples.npz", image=data["image"][:FEW])
    page = reported(part(name), tmp_path / "samples.npz", tmp_path, monkeypatch, "40%")
    check(browser, page, seen, LIGHT, DARK, PHONE)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "size"), [("kws_dscnn", "60%"), ("cifar_resnet20", "25%")])
def test_models_with_data_of_their_own(
    name: str, size: str, browser: "Browser", seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.folder() / "models" / f"{name}.onnx"
    if not model.is_file():
        pytest.skip("there is no zoo")
    only = get_runtime("onnxruntime").session(model, mode="deployed").inputs[0].name
    calibration: dict[str, Any] = {only: zoo.zoo_model(name, only).calibration[only][:FEW]}
    np.savez(tmp_path / "samples.npz", **calibration)
    check(browser, reported(model, tmp_path / "samples.npz", tmp_path, monkeypatch, size, "clado-star"), seen, PHONE)
