"""The page is one file that loads nothing, says what the numbers say, and cannot be broken by a name."""

import hashlib
import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from onnxmpq.errors import InputError
from onnxmpq.report.page import ROWS, byte_text, make_page
from onnxmpq.report.view import make_view
from onnxmpq.report.write import write_report
from tests.report import made

SPACE = made.space(12)
TABLE = made.table(SPACE)
LIMIT_BYTES = 3_000_000
# d3 7.9.2 and @observablehq/plot 0.6.17, as the npm registry has them in dist/.
DIGESTS = {
    "d3.min.js": "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1",
    "plot.umd.min.js": "4358086467740777dd788d6b27a95cebdbaefdd50c730a3060117073bd7134cb",
}


def page(count: int = 12) -> str:
    space = made.space(count)
    view = make_view(
        made.result(space), front=made.front(space), table=made.table(space, pairs=True), command="x < y & z"
    )
    return make_page(view)


def test_it_refers_to_nothing_outside() -> None:
    text = page()
    found = set(re.findall(r"https?://[^\s\"'`<>)]*", text)) - {"https://d3js.org"}
    assert {address.split("/")[2] for address in found} == {"www.w3.org"}
    assert not re.findall(
        r"<(?:script|link|img|iframe|style)[^>]*\s(?:src|href)=(?!\"data:)", text.partition("<footer>")[0]
    )
    assert "default-src 'none'" in text


def test_names_cannot_break_out() -> None:
    text = page()
    assert made.EVIL not in text
    numbers = text.partition('id="numbers">')[2].partition("</script>")[0]
    assert json.loads(numbers)["units"][0]["name"] == made.EVIL
    assert not set("<>&") & set(numbers)
    assert text.count("</script>") == text.count("<script") == 4


def test_the_page_holds_the_numbers_of_the_view() -> None:
    view = make_view(made.result(SPACE), table=TABLE)
    numbers = make_page(view).partition('id="numbers">')[2].partition("</script>")[0]
    assert json.loads(numbers) == json.loads(view.to_text())


def test_the_bytes_of_the_file_add_up() -> None:
    result = made.result(SPACE)
    section = make_page(make_view(result)).partition('<section id="bytes">')[2].partition("</section>")[0]
    number = '<td class="number">([^<]*)</td>'
    rows = re.findall(f'<tr><td class="name">([^<]*)</td>{number}{number}', section)
    assert [name for name, *_ in rows] == ["weights", "other tensors", "graph", "text", "scales", "all"]
    counts = [[int(count.replace(",", "")) for count in row[1:]] for row in rows]
    assert [sum(column) for column in zip(*counts[:-1], strict=True)] == counts[-1]
    assert counts[-1] == [result.float_file_bytes, result.file_bytes]


def test_a_model_of_300_units_stays_small() -> None:
    assert len(page(300).encode()) < LIMIT_BYTES


def test_a_page_holds_the_options_of_plans_while_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    view = make_view(made.result(SPACE), front=made.front(SPACE), table=TABLE)
    assert "cannot be picked" not in make_page(view)
    monkeypatch.setattr("onnxmpq.report.page.CHOICES", 6 * len(SPACE.units))
    text = make_page(view)
    plans = json.loads(text.partition('id="numbers">')[2].partition("</script>")[0])["plans"]
    kept = [number for number, plan in enumerate(plans) if plan["options"]]
    unbeaten = [
        number
        for number, plan in enumerate(view.plans)
        if all(plan.loss.value < other.loss.value for other in view.plans if other.file_bytes < plan.file_bytes)
    ]
    assert (len(kept), kept[0]) == (6, 0)
    assert set(kept[1:]) <= set(unbeaten)
    assert f"Of {len(plans)} plans, {len(plans) - 6} cannot be picked" in text


def test_a_long_list_of_what_stays_float_is_folded() -> None:
    space = made.space(ROWS + 30)
    result = made.result(space, uniform_only=True)
    text = make_page(make_view(replace(result, plan=replace(result.plan, choices={}))))
    section = text.partition('<section id="unquantised">')[2].partition("</section>")[0]
    seen, _, folded = section.partition("<details><summary>31 more that take less</summary>")
    assert (seen.count("<tr>"), folded.count("<tr>")) == (ROWS + 1, 31 + 1)
    assert "more that take less" not in page()


def test_a_page_of_many_figures_rounds_them_and_its_json_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.report.page.EXACT", len(TABLE.variants) - 1)
    view = make_view(made.result(SPACE), table=TABLE)
    alone = json.loads(make_page(view).partition('id="numbers">')[2].partition("</script>")[0])["alone"]
    for one, exact in zip(alone, view.to_json()["alone"], strict=True):
        for found, whole in (
            *((one[key], exact[key]) for key in ("predicted", "local", "sqnr_db")),
            *((one["loss"][key], exact["loss"][key]) for key in ("value", "error")),
        ):
            assert float(found) == pytest.approx(float(whole), rel=1e-5)
            assert len(str(found).partition("e")[0].lstrip("-0.").replace(".", "")) <= 6


def test_maps_that_leave_units_out_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "left out" not in page()
    monkeypatch.setattr("onnxmpq.report.interactions.LARGEST_MAP", 5)
    assert "A map has at most 5 units: of 11 at w8a8, 6 are left out" in page()


def test_what_cannot_be_drawn_is_text() -> None:
    text = page()
    assert "98.00% → 97.50%" in text
    assert "no difference" in text
    assert "HiGHS 1.15.1" in text
    assert "x &lt; y &amp; z" in text


def test_sections_without_numbers_are_left_out() -> None:
    text = make_page(make_view(made.result(SPACE, uniform_only=True)))
    found = re.findall(r'<section id="(\w+)"', text)
    assert found == ["summary", "notes", "bits", "bytes", "unquantised", "checks"]


def test_a_report_is_two_files(tmp_path: Path) -> None:
    written = write_report(made.result(SPACE), tmp_path, table=TABLE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert json.loads(written.numbers.read_text("utf-8"))["summary"]["file_bytes"] == made.result(SPACE).file_bytes
    again = write_report(front=made.front(SPACE), path=tmp_path / "front.html")
    assert (again.page.name, again.numbers.name) == ("front.html", "front.json")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of them"):
        write_report(path=tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        write_report(made.result(SPACE), tmp_path / "none" / "report.html")
    with pytest.raises(InputError, match=r"call it \.html"):
        write_report(made.result(SPACE), tmp_path / "report.pdf")


@pytest.mark.parametrize("name", DIGESTS)
def test_the_library_is_what_it_says(name: str) -> None:
    data = files("onnxmpq.report").joinpath("assets", name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == DIGESTS[name]
    assert not re.findall(rb"<!--|</?script", data)  # either would change how the page is read


def test_sizes_are_written_for_people() -> None:
    assert [byte_text(count) for count in (0, 999, 123_481, 5_000_000_000)] == ["0 B", "999 B", "123.5 kB", "5 GB"]
