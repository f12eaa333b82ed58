"""Requirements: what a quantised file must do to be used, as users write them, held against what was seen.

size<=5MB        the file with its external data, or a share of the float file: size<=30%
drop<=1%         how far the metric falls, read as the budget drop: accuracy with labels, else the share of samples
                 whose class changes, else error power over power
loss<=0.01       KL from the float probabilities for heads of classes, error power over signal power for other outputs
sqnr>=30         dB, the runtime against the float model
agreement>=40    dB, the runtime against the literal simulation of the file
speed>=1.2       times the float model, the median of paired runs

A figure that samples estimate counts with its standard error: it is added before it is compared.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from onnxmpq.artifacts import Verdict
from onnxmpq.budgets.limits import Limit
from onnxmpq.data.samples import Samples
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, nearest
from onnxmpq.metrics.compared import Model, fall, mean_loss
from onnxmpq.metrics.heads import find_heads
from onnxmpq.metrics.losses import Head
from onnxmpq.metrics.parts import parted
from onnxmpq.model.load import Source
from onnxmpq.model.normalise import normalise
from onnxmpq.runtimes import Runtime
from onnxmpq.verification.verify import file_bytes

Kind = Literal["size", "drop", "loss", "sqnr", "agreement", "speed"]
KINDS: tuple[Kind, ...] = ("size", "drop", "loss", "sqnr", "agreement", "speed")
MEASURED: tuple[Kind, ...] = ("drop", "loss")
"""Kinds that need runs over all samples; the others are read from the file and its verdict."""

Figure = tuple[float, float | None, str]
"""A figure, its standard error if it has one, and what it is of."""

_EXAMPLES: Mapping[Kind, str] = {
    "size": "size<=5MB or size<=30%",
    "drop": "drop<=1%",
    "loss": "loss<=0.01",
    "sqnr": "sqnr>=30",
    "agreement": "agreement>=40",
    "speed": "speed>=1.2",
}
_WRITTEN = re.compile(r"\s*([^<>=\s]*)\s*([<>=]*)\s*(.*?)\s*")
_CHECKS: Mapping[Kind, str] = {"sqnr": "sqnr", "agreement": "simulation", "speed": "speed"}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One bound on one figure; ``amount`` is in bytes, as a share where ``share`` is set, in dB or times float."""

    kind: Kind
    amount: float
    share: bool = False
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``drop<=1%``.

        >>> Requirement.parse("size <= 5 MB"), Requirement.parse("drop<=1%").share
        (Requirement(kind='size', amount=5000000.0, share=False, text='size<=5MB'), True)
        """
        found = _WRITTEN.fullmatch(text)
        name, sign, amount = found.groups() if found else ("", "", "")
        if name not in KINDS:
            raise InputError(
                f"There is no requirement '{brief(name)}'. Known: {', '.join(KINDS)}.{nearest(name, KINDS)}"
            )
        kind: Kind = name
        example = _EXAMPLES[kind]
        if sign != ("<=" if "<=" in example else ">="):
            raise InputError(f"'{brief(text)}' is no requirement. Expected {example}.")
        try:
            value, share = _amount(kind, amount)
        except (InputError, ValueError):
            told = f"'{brief(text)}' is no requirement: '{brief(amount)}' is no amount. Expected {example}."
            raise InputError(told) from None
        return cls(kind, value, share, f"{name}{sign}{''.join(amount.split())}")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was seen of one requirement: a figure, its limit in the same unit, and its standard error if it has one."""

    requirement: Requirement
    seen: float
    limit: float
    error: float | None = None
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether it is met, the standard error taken against it; a figure that is no number never does."""
        error = self.error or 0.0
        least = self.requirement.kind in _CHECKS
        return self.seen - error >= self.limit if least else self.seen + error <= self.limit

    @property
    def told(self) -> str:
        """Write the figure for people."""
        return _written(self.requirement.kind, self.seen, self.error)

    @property
    def told_limit(self) -> str:
        """Write the limit for people."""
        return _written(self.requirement.kind, self.limit, None)

    def __str__(self) -> str:
        """Write figure and limit in one line."""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.requirement.text}: seen {self.told}, limit {self.told_limit}{detail}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data; a figure that JSON has no number for as text."""
        return {
            "requirement": self.requirement.text,
            "kind": self.requirement.kind,
            "ok": self.ok,
            "seen": self.seen if isfinite(self.seen) else str(self.seen),
            "error": self.error,
            "limit": self.limit,
            "detail": self.detail,
        }


def parse_requirements(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """Read requirements; all that cannot be read are one error."""
    found, faults = [], []
    for text in texts:
        try:
            found.append(Requirement.parse(text))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError("\n".join(faults))
    return tuple(found)


def hold(
    requirements: Sequence[Requirement],
    verdict: Verdict,
    source: Source,
    path: Path,
    runtime: Runtime,
    reference: Runtime,
    samples: Samples,
) -> tuple[Finding, ...]:
    """Hold ``path``, quantised from ``source``, against requirements; drop and loss are judged on all ``samples``."""
    if source.path is None:
        raise InputError("Requirements compare files. Save the float model first.")
    figures: dict[Kind, Figure] = {"size": (float(file_bytes(path)), None, "")}
    for kind, check in _CHECKS.items():
        value = verdict[check].value
        figures[kind] = (float(value) if isinstance(value, int | float) else np.nan, None, verdict[check].detail)
    wanted: list[Kind] = [requirement.kind for requirement in requirements]
    if set(wanted) & set(MEASURED):
        model = normalise(source).model
        heads = parted(model, find_heads(model))
        before = reference.session(source.path, mode="deployed")
        figures |= _measured(wanted, (before, runtime.session(path, mode="deployed")), samples, heads)
    found = []
    for requirement in requirements:
        seen, known, detail = figures[requirement.kind]
        whole = source.size_bytes if requirement.kind == "size" and requirement.share else 1.0
        found.append(Finding(requirement, seen, requirement.amount * whole, known, detail))
    return tuple(found)


def _measured(
    wanted: Sequence[Kind], of: tuple[Model, Model], samples: Samples, heads: Sequence[Head]
) -> dict[Kind, Figure]:
    """Return the figures that need all samples."""
    figures: dict[Kind, Figure] = {}
    count = f"{len(samples):,} samples"
    if "drop" in wanted:
        classes = heads[0].kind != "power"
        what = "share of classes that change, for want of labels" if classes else "error power over power"
        what = what if samples.labels is None else "accuracy"
        figures["drop"] = (*fall(*of, samples, samples.labels, classes=classes), f"{what}, {count}")
    if "loss" in wanted:
        names = ", ".join("KL" if head.kind == "kl" else "error power over power" for head in heads)
        figures["loss"] = (*mean_loss(*of, samples, heads, samples.batch), f"{names}, {count}")
    return figures


def _amount(kind: Kind, text: str) -> tuple[float, bool]:
    """Read an amount, and whether it is a share: sizes and drops as budgets are read, anything else a number."""
    if kind == "size" or kind == "drop":
        limit = Limit.parse(f"{kind}={text}")
        return limit.amount, limit.share
    value = float(text)
    if not isfinite(value):
        raise ValueError(text)
    return value, False


def _written(kind: Kind, value: float, error: float | None) -> str:
    """Write a figure with its unit and, where there is one, its standard error."""
    spread = 0.0 if error is None else error
    if kind == "size":
        return f"{value:,.0f} bytes"
    if kind == "drop":
        return f"{100 * value:.2f}%" if error is None else f"{100 * value:.2f} ± {100 * spread:.2f}%"
    if kind == "loss":
        return f"{value:.4g}" if error is None else f"{value:.4g} ± {spread:.2g}"
    return f"{value:.2f} times float" if kind == "speed" else f"{value:.1f} dB"
