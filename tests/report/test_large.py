"""A report of 2,000 units at four options takes little memory, stays a page, and says what it leaves out."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from onnxmpq.report.interactions import CELLS
from tests.report.large import TRACED, UNITS

ROOT = Path(__file__).resolve().parents[2]
MEASURED = UNITS - 1  # the last one has float alone


@dataclass(frozen=True)
class Large:
    """The page, the numbers on it and beside it, and what they took."""

    page: str
    on_page: Mapping[str, Any]
    beside: Mapping[str, Any]
    taken: Mapping[str, Any]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    """Write reports in a process of its own."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells the peak of a process")
    folder, beside = tmp_path_factory.mktemp("large"), tmp_path_factory.mktemp("traced")
    path = os.pathsep.join((str(ROOT), str(ROOT / "passes")))
    done = subprocess.run(
        [sys.executable, "-m", "tests.report.large", str(folder), str(beside)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    page = (folder / "report.html").read_text("utf-8")
    numbers = page.partition('id="numbers">')[2].partition("</script>")[0]
    exact = json.loads((folder / "report.json").read_text("utf-8"))
    return Large(page, json.loads(numbers), exact, json.loads(done.stdout))


def test_it_takes_less_than_a_gigabyte(large: Large) -> None:
    print(
        f"{large.taken['peak'] / 1e6:.0f} MB, {large.taken['seconds']:.1f} s, its page {len(large.page) / 1e6:.2f} MB"
    )
    assert large.taken["peak"] < 1_000_000_000
    assert len(large.page.encode()) < 5_000_000


def test_its_memory_grows_with_units_and_not_with_pairs_of_them(large: Large) -> None:
    few, many = large.taken["traced"]
    print(f"{few / 1e6:.0f} MB, {many / 1e6:.0f} MB")
    assert many < 1.5 * few * TRACED[1] / TRACED[0]


def test_every_option_has_its_map_and_the_page_says_what_is_left_out(large: Large) -> None:
    maps = large.on_page["maps"]
    assert [found["name"] for found in maps] == ["plan", "w8a8", "w4a8", "w3a8", "w2a8"]
    shown = {len(found["units"]) for found in maps}
    assert shown == {346}
    assert sum(len(found["thousandths"]) for found in maps) <= CELLS
    assert f"of {MEASURED:,} at w8a8, {MEASURED - 346:,} are left out" in large.page


def test_every_unit_alone_is_on_the_page_and_exact_beside_it(large: Large) -> None:
    shown, exact = large.on_page["alone"], large.beside["alone"]
    assert len(shown) == len(exact) == 4 * MEASURED
    for one, other in zip(shown, exact, strict=True):
        assert (one["unit"], one["option"]) == (other["unit"], other["option"])
        for found, whole in ((one["predicted"], other["predicted"]), (one["loss"]["value"], other["loss"]["value"])):
            assert found == pytest.approx(whole, rel=1e-5)


def test_plans_that_cannot_be_picked_are_told_and_whole_beside_it(large: Large) -> None:
    plans, exact = large.on_page["plans"], large.beside["plans"]
    assert all(len(plan["options"]) == UNITS for plan in exact)
    picked = [plan for plan in plans if plan["options"]]
    assert plans[0]["kind"] == "chosen"
    assert plans[0] in picked
    assert f"Of {len(plans):,} plans, {len(plans) - len(picked):,} cannot be picked" in large.page
