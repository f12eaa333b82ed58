"""Where things are on the page of a report, and how a browser opens it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PLANS = "#figure-front .plan > *"
CELLS = "#figure-map .cells image, #figure-map image.cells"
BARS = "#figure-bits figure .unit > *"


@dataclass
class Seen:
    """What a page did that it should not have done."""

    faults: list[str] = field(default_factory=list)


def opened(browser: "Browser", report: Path, seen: Seen, *, width: int = 1200, dark: bool = False) -> "Page":
    """Open a report, and note everything that it should not do."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page.on("console", lambda message: seen.faults.append(message.text))
    page.on("pageerror", lambda error: seen.faults.append(str(error)))
    page.on("dialog", lambda dialog: seen.faults.append(dialog.message))
    page.on(
        "request",
        lambda request: None if request.url.startswith((report.as_uri(), "data:")) else seen.faults.append(request.url),
    )
    page.goto(report.as_uri())
    page.wait_for_selector("#figure-guesses svg")
    return page
