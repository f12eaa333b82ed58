"""A browser, and what its pages did that they should not have done."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.report.pages import Seen

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Start the Chromium of the system; skip where it or playwright is absent."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def seen() -> Seen:
    """Begin with nothing seen."""
    return Seen()
