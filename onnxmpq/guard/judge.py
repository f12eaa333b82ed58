"""A file judged on the calibration samples, as its runtime runs it, and what is said of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxmpq.artifacts import Export
from onnxmpq.data.samples import Samples, spread
from onnxmpq.guard.culprits import Finding, find
from onnxmpq.guard.damage import Damage, Meter, Thresholds
from onnxmpq.metrics.losses import Head
from onnxmpq.options import Constraints
from onnxmpq.runtimes import Session
from onnxmpq.verification.verify import file_bytes
from onnxmpq.workspace.export import Exporter
from onnxmpq.workspace.prepare import Progress

JUDGED = 128
"""The most samples that a file is judged on."""
_NAMED = 3  # culprits that a note names


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the file that was written does, what it would have done as asked where units are kept finer, and why."""

    damage: Damage
    thresholds: Thresholds
    as_asked: Damage | None = None
    finding: Finding | None = None

    @property
    def broken(self) -> tuple[str, ...]:
        """Return the figures of the file that are beyond their thresholds."""
        return self.thresholds.broken(self.damage)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        found = self.finding
        return {
            "damage": self.damage.to_json(),
            "broken": list(self.broken),
            "thresholds": self.thresholds.to_json(),
            "as_asked": self.as_asked.to_json() if self.as_asked else None,
            "culprits": [culprit.to_json() for culprit in found.culprits] if found else [],
            "runs": found.runs if found else 0,
            "share_of_measuring": found.share if found else 0.0,
        }


def judge(
    before: Session,
    after: Session,
    samples: Samples,
    heads: Sequence[Head],
    progress: Progress = lambda *_: None,
) -> Damage:
    """Compare a file, in its runtime, with the float model on samples from all over the calibration data."""
    meter = Meter(heads)
    chosen = spread(len(samples), JUDGED)
    for place, feed in enumerate(samples):
        if place in chosen:
            meter.add(before.run(feed, meter.names), after.run(feed, meter.names))
            progress("guard", meter.samples, len(chosen))
    return meter.damage()


def judge_export(exporter: Exporter, path: Path, heads: Sequence[Head]) -> Damage:
    """Judge a file that was built."""
    workspace = exporter.workspace
    before, after = exporter.sessions(path, exporter.threads)
    return judge(before, after, workspace.samples, heads, workspace.progress)


def guarded(
    exporter: Exporter,
    export: Export,
    heads: Sequence[Head],
    thresholds: Thresholds,
    by_hand: Constraints,
    notes: list[str],
    *,
    may_change: bool,
) -> tuple[Export, Judgement]:
    """Judge a file; where it is ruined, say by what, and keep that finer where the plan was nobody's own."""
    damage = judge_export(exporter, export.path, heads)
    if not thresholds.broken(damage):
        return export, Judgement(damage, thresholds)
    exporter.workspace.progress("guard: culprits", 0, 0)
    finding = find(exporter.workspace, export.plan, heads, thresholds, by_hand)
    if finding is None or not may_change:
        notes += [ruined(damage, thresholds, finding), *([advice(finding)] if finding else [])]
        return export, Judgement(damage, thresholds, None, finding)
    notes.append(ruined(damage, thresholds, finding, "the option that was asked for"))
    other = exporter.build(finding.plan, export.path.name)
    after = judge_export(exporter, other.path, heads)
    sizes, speeds = (file_bytes(export.path), file_bytes(other.path)), (export.speed, other.speed)
    notes.append(kept_finer(finding, after, sizes, speeds, usable=not thresholds.broken(after)))
    return other, Judgement(after, thresholds, damage, finding)


def ruined(damage: Damage, thresholds: Thresholds, finding: Finding | None, asked: str = "") -> str:
    """Say that a file is ruined, or would be as it was ``asked`` for, and by what."""
    what = f"At {asked} the outputs would be damaged" if asked else "The outputs are damaged"
    told = f"{what}: {damage} on {damage.samples} samples ({thresholds.said(damage)} is usable)."
    if finding is None:
        return f"{told} No few units are to blame: a finer option helps, or a budget that lets a search choose."
    names = [f"{one.unit} ({one.local_db:.1f} dB behind it)" for one in finding.culprits[:_NAMED]]
    more = len(finding.culprits) - len(names)
    rest = f" and {more} more" if more > 0 else ""
    return (
        f"{told} To blame, found in {finding.runs} runs of one sample ({finding.share:.1%} of measuring every unit): "
        f"{', '.join(names)}{rest}."
    )


def kept_finer(
    finding: Finding, after: Damage, sizes: tuple[int, int], speeds: tuple[float, float], *, usable: bool
) -> str:
    """Say what was kept finer, what that does, and its price."""
    if len(finding.culprits) <= _NAMED:
        units = ", ".join(f"{culprit.unit} at {culprit.kept}" for culprit in finding.culprits)
    else:
        counts = Counter(culprit.kept for culprit in finding.culprits).most_common()
        units = ", ".join(f"{count} units at {option}" for option, count in counts)
    grown = sizes[1] - sizes[0]
    speed = f", at {speeds[1]:.2f} instead of {speeds[0]:.2f} times float" if all(speeds) else ""
    still = "" if usable else " That is still too much: a budget lets a search choose."
    return (
        f"Kept finer: {units}. Now {after}, for {grown:+,} bytes ({grown / sizes[0]:+.1%}){speed}.{still} --as-asked "
        "leaves the file as it was asked for."
    )


def advice(finding: Finding) -> str:
    """Say how the units that are to blame would be kept finer."""
    kept = " ".join(f"--keep {one.unit}={one.kept}" for one in finding.culprits[:_NAMED])
    return f"{kept} keeps the first of them finer." if len(finding.culprits) > _NAMED else f"{kept} fixes it."
