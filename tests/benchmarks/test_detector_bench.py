"""The example detector before and after, by mAP."""

import json
from pathlib import Path

from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.detector import paired
from models import shapes


def test_mean_precision_before_and_after_is_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    few = ("--targets", "ort-cpu", "--asked", "w8a8", "--pictures", "60", "--draws", "5", "--json", str(file))
    ran = CliRunner().invoke(main, ["detector", *few])
    assert ran.exit_code == 0, ran.output
    [row] = json.loads(file.read_text())
    assert (row["target"], row["asked"], row["pictures"]) == ("ort-cpu", "w8a8", 60)
    assert row["size_share"] < 0.35
    assert row["before"] > 80
    assert row["before"] - row["after"] < 1.5  # 0.1 of 500 pictures; 60 spread by half a point
    assert 0 < row["error"] < 2


def test_the_same_detections_differ_by_nothing() -> None:
    _, objects = shapes.draw(10, 0)
    assert paired((objects, objects), objects, 4) == (100, 100, 0)


def test_what_is_refused_is_told() -> None:
    ran = CliRunner().invoke(main, ["detector", "--targets", "nowhere", "--pictures", "1"])
    assert ran.exit_code == 1
    assert "nowhere" in ran.output
