"""The page in a real browser: it draws all figures, answers to its reader, and asks nobody for anything.

Runs in the Chromium of the system; skipped where it or playwright is absent.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from onnxmpq.report.page import make_page
from onnxmpq.report.record import read_record, write_record
from onnxmpq.report.view import make_view
from onnxmpq.report.write import write_report
from tests.report import made
from tests.report.pages import BARS, CELLS, PLANS, Seen, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser
COUNT = 60


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = made.space(COUNT)
    return write_report(
        made.result(space),
        tmp_path_factory.mktemp("report"),
        front=made.front(space),
        table=made.table(space, pairs=True),
        command="onnxmpq quantize model.onnx",
    ).page


@pytest.fixture
def page(browser: "Browser", report: Path, seen: Seen) -> Iterator["Page"]:
    found = opened(browser, report, seen)
    yield found
    found.close()
    assert not seen.faults


def test_every_figure_is_drawn(page: "Page", report: Path) -> None:
    numbers = json.loads(report.with_suffix(".json").read_text("utf-8"))
    assert page.locator(PLANS).count() == len(numbers["plans"])
    assert page.locator(BARS).count() == COUNT
    assert page.locator("#figure-alone .alone > *").count() == len(numbers["alone"])
    assert page.locator("#figure-guesses .guess > *").count() == len(numbers["alone"] + numbers["guesses"])
    image = page.locator(CELLS)
    assert (image.get_attribute("href") or image.get_attribute("xlink:href") or "").startswith("data:image/png")
    assert page.title() == "out.onnx"


def test_what_was_only_measured_is_drawn(browser: "Browser", seen: Seen, tmp_path: Path) -> None:
    space = made.space(20)
    write_record(make_view(table=made.table(space, pairs=True), space=space), tmp_path / "r.json")
    (tmp_path / "r.html").write_text(make_page(read_record(tmp_path / "r.json")), "utf-8")
    numbers = json.loads((tmp_path / "r.json").read_text("utf-8"))
    page = opened(browser, tmp_path / "r.html", seen)
    assert page.locator("#figure-alone .alone > *").count() == len(numbers["alone"])
    assert page.locator("#figure-guesses .guess > *").count() == len(numbers["alone"]) + 1
    assert page.locator(CELLS).count() == 1
    page.locator("#op").select_option("MatMul")
    assert 0 < page.locator("#figure-alone .alone > *").count() < len(numbers["alone"])
    page.locator("summary", has_text="the largest losses as a table").click()
    assert page.locator("#alone td").first.is_visible()
    page.close()
    assert not seen.faults


def test_no_mark_is_nowhere(page: "Page") -> None:
    assert page.locator('svg [d*="NaN"], svg [cx="NaN"], svg [y="NaN"], svg [height="NaN"]').count() == 0


def test_a_point_shows_its_plan(page: "Page", report: Path) -> None:
    plans = json.loads(report.with_suffix(".json").read_text("utf-8"))["plans"]
    before = [bar.get_attribute("height") for bar in page.locator(BARS).all()]
    page.locator(f'{PLANS}[data-plan="3"]').click()
    assert page.locator("select.plans").first.input_value() == "3"
    after = [bar.get_attribute("height") for bar in page.locator(BARS).all()]
    assert after != before
    page.locator("summary", has_text="the units as a table").click()
    rows = page.locator("#unit-rows tr td:nth-child(5)").all_inner_texts()
    assert rows == plans[3]["options"]


def test_keys_and_lists_pick_plans_too(page: "Page") -> None:
    page.locator(f'{PLANS}[data-plan="5"]').focus()
    page.keyboard.press("Enter")
    assert page.locator("select.plans").nth(1).input_value() == "5"
    page.locator("select.plans").nth(1).select_option("2")
    assert page.locator("select.plans").first.input_value() == "2"


def test_pointing_at_a_plan_tells_its_numbers(page: "Page") -> None:
    page.locator(f'{PLANS}[data-plan="4"]').hover()
    told = page.locator('#figure-front g[aria-label="tip"]').text_content() or ""
    assert "loss" in told
    assert "±" in told


def test_units_are_filtered_by_operator(page: "Page") -> None:
    page.locator("#op").select_option("Conv")
    assert page.locator(BARS).count() == COUNT // 2
    assert page.locator("#unit-rows tr").count() == COUNT // 2
    page.locator("#op").select_option("")
    assert page.locator(BARS).count() == COUNT


def test_the_map_can_be_read_and_ordered(page: "Page") -> None:
    image = page.locator(CELLS)
    before = image.get_attribute("href")
    image.hover(position={"x": 100, "y": 200})
    assert " at w" in page.locator("#map-cell").inner_text()
    page.locator("#map-order").select_option("")
    assert page.locator(CELLS).get_attribute("href") != before
    page.locator("#map-of").select_option(label="w4a8")
    assert page.locator(CELLS).count() == 1


def test_units_can_be_ordered_by_sensitivity(page: "Page") -> None:
    dots = page.locator("#figure-alone .alone > *")
    before = [dot.get_attribute("cx") for dot in dots.all()]
    page.locator("#alone-order").select_option("sorted")
    after = [dot.get_attribute("cx") for dot in dots.all()]
    assert after != before
    assert sorted(after, key=str) == sorted(before, key=str)


def test_light_and_dark_follow_the_system_and_the_button(browser: "Browser", report: Path, seen: Seen) -> None:
    def ground(page: "Page") -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = opened(browser, report, seen), opened(browser, report, seen, dark=True)
    assert ground(light) != ground(dark)
    image = light.locator(CELLS).get_attribute("href")
    light.locator("#theme").click()
    assert ground(light) == ground(dark)
    assert light.locator(CELLS).get_attribute("href") != image
    for _ in range(2):
        dark.locator("#theme").click()
    assert dark.locator("#theme").inner_text() == "theme: light"
    assert ground(dark) != ground(light)
    light.close()
    dark.close()
    assert not seen.faults


def test_a_phone_shows_it_without_scrolling_sideways(browser: "Browser", report: Path, seen: Seen) -> None:
    page = opened(browser, report, seen, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 800, "height": 900})
    page.wait_for_selector('#figure-front svg[width="718"]')
    page.close()
    assert not seen.faults


def test_it_prints_in_light_without_controls(page: "Page") -> None:
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".controls:visible, button:visible").count() == 0
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme ?? ''") == ""


@pytest.mark.parametrize("what", ["uniform", "front", "result"])
def test_what_is_absent_is_no_fault(browser: "Browser", tmp_path: Path, seen: Seen, what: str) -> None:
    space = made.space(5)
    if what == "front":
        written = write_report(path=tmp_path, front=made.front(space))
    else:
        written = write_report(made.result(space, uniform_only=what == "uniform"), tmp_path)
    page = browser.new_page()
    page.on("console", lambda message: seen.faults.append(message.text))
    page.on("pageerror", lambda error: seen.faults.append(str(error)))
    page.goto(written.page.as_uri())
    page.wait_for_selector("#figure-bits svg")
    assert page.locator(BARS).count() == (4 if what == "front" else 5)
    page.close()
    assert not seen.faults
