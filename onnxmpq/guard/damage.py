"""What a quantised file does to the outputs of its float model, and whether that is too much.

    Meter(heads).add(wanted, got)   counts a sample: float outputs beside those of the file
    Thresholds().broken(damage)     the figures that are beyond what is taken for usable

classes   share of top classes that stay, for outputs of classes
loss      mean KL of the file's probabilities from the float ones, in nats, for outputs of classes
sqnr      signal-to-noise ratio in dB of the worst part of any other output

A part of an output is a group of its channels of like range: of boxes in pixels beside scores below one, both must
hold. A part whose range is below 1/4096 of the largest is not judged. Power is counted around each channel's mean.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxmpq.artifacts import plain
from onnxmpq.disk.reading import brief
from onnxmpq.errors import InputError, nearest
from onnxmpq.metrics.losses import Head, log_softmax

Outputs = Mapping[str, npt.NDArray[np.generic]]
_MOST_CHANNELS = 1024  # axes that are longer hold positions, not channels
_BOUNDS = {"classes": (0.0, 1.0), "loss": (0.0, 1e6), "sqnr": (-1000.0, 1000.0)}
_STEP = 4.0  # bits between the ranges of two parts
_PARTS = 3  # so many steps below the largest range are judged


@dataclass(frozen=True, slots=True)
class Damage:
    """Figures of one file; None where its outputs have no such figure."""

    samples: int
    classes: float | None = None
    loss: float | None = None
    sqnr: float | None = None
    worst: str = ""

    def __str__(self) -> str:
        """Write the figures in a line."""
        found = []
        if self.classes is not None:
            found.append(f"{1 - self.classes:.1%} of top classes changed")
        if self.loss is not None:
            found.append(f"loss {self.loss:.3g}")
        if self.sqnr is not None:
            found.append(f"{self.sqnr:.1f} dB to float" + (f" in '{self.worst}'" if self.worst else ""))
        return ", ".join(found) or "no float output"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        found: dict[str, Any] = plain(self)
        return found


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a file counts as damaged.

    >>> Thresholds.parse(["classes>=90%", "sqnr>=20"])
    Thresholds(classes=0.9, loss=0.1, sqnr=20.0)
    """

    classes: float = 0.8
    loss: float = 0.1
    sqnr: float = 10.0

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Self:
        """Read ``classes>=80%``, ``loss<=0.1`` and ``sqnr>=10``; what is not named stays as usual."""
        values: dict[str, float] = {}
        signs = {"classes": ">=", "loss": "<=", "sqnr": ">="}
        for text in texts:
            found = re.fullmatch(r"\s*([a-z]*)\s*([<>=]*)\s*(-?[0-9.]+)\s*(%?|dB)\s*", text)
            name, sign, amount, unit = found.groups() if found else (text, "", "", "")
            if signs.get(name) != sign or (unit == "%") > (name == "classes"):
                raise InputError(
                    f"'{brief(text)}' is no threshold. Expected classes>=80%, loss<=0.1 or sqnr>=10."
                    + nearest(name, signs)
                )
            if name in values:
                raise InputError(f"The threshold '{name}' is given twice.")
            try:
                value = float(amount) / (100 if unit == "%" else 1)
            except ValueError:
                raise InputError(f"'{brief(text)}' is no threshold: '{brief(amount)}' is no number.") from None
            least, most = _BOUNDS[name]
            if not least <= value <= most:
                raise InputError(f"'{brief(text)}' is no threshold: '{name}' goes from {least:g} to {most:g}.")
            values[name] = value
        return cls(**values)

    def to_json(self) -> dict[str, float]:
        """Return them as plain JSON data."""
        return asdict(self)

    def said(self, damage: Damage) -> str:
        """Write the thresholds of the figures that there are.

        >>> Thresholds().said(Damage(8, classes=1.0, loss=0.0))
        'classes>=80%, loss<=0.1'
        """
        parts = [
            f"classes>={100 * self.classes:.4g}%",
            f"loss<={self.loss:.4g}",
            f"sqnr>={self.sqnr:.4g} dB",
        ]
        figures = (damage.classes, damage.loss, damage.sqnr)
        return ", ".join(part for part, figure in zip(parts, figures, strict=True) if figure is not None)

    def broken(self, damage: Damage) -> tuple[str, ...]:
        """Return the names of the figures that are beyond their thresholds, none where the file is usable."""
        found = []
        if damage.classes is not None and damage.classes < self.classes:
            found.append("classes")
        if damage.loss is not None and not damage.loss <= self.loss:
            found.append("loss")
        if damage.sqnr is not None and not damage.sqnr >= self.sqnr:
            found.append("sqnr")
        return tuple(found)


@dataclass(slots=True)
class Channels:
    """Sums over samples and positions of one output, by channel along one axis."""

    count: float = 0.0
    total: Any = 0.0
    square: Any = 0.0
    noise: Any = 0.0
    largest: Any = 0.0
    shares: list[float] = field(default_factory=list)

    def add(self, wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64], axis: int) -> None:
        """Count one sample."""
        rest = tuple(i for i in range(wanted.ndim) if i != axis)
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.where(wanted == got, 0.0, got - wanted)
            self.count += wanted.size / wanted.shape[axis]
            self.total = self.total + wanted.sum(rest)
            self.square = self.square + (wanted**2).sum(rest)
            self.noise = self.noise + (difference**2).sum(rest)
            power, noise = float((wanted**2).sum()), float((difference**2).sum())
            self.shares.append(min(noise / power, 1.0) if power > 0 and np.isfinite(noise) else float(noise != 0))
            self.largest = np.maximum(self.largest, np.abs(wanted).max(rest, initial=0.0))

    def signal(self) -> Any:
        """Return the power of every channel around its mean."""
        return np.maximum(self.square - self.total**2 / max(self.count, 1.0), 0.0)

    def ratio(self, *, parts: bool = False) -> float:
        """Return noise over signal of all channels together, or the mean of every sample's where that is more.

        Samples that are quiet beside others are drowned long before the sum shows it. With ``parts`` so are channels:
        the worst group of like range counts.
        """
        noise, power = float(np.sum(self.noise)), float(np.sum(self.signal()))
        together = noise / power if power > 0 and np.isfinite(noise) else 0.0 if noise == 0 else np.inf
        worst = 10 ** (-self.worst() / 10) if parts else 0.0
        return max(together, worst, float(np.mean(self.shares)) if self.shares else 0.0)

    def worst(self) -> float:
        """Return the signal-to-noise ratio of the worst group of like range; that of nothing if they are no numbers."""
        signal = self.signal()
        largest = np.maximum(self.largest, 1e-300)
        steps = np.floor((np.log2(largest.max()) - np.log2(largest)) / _STEP)
        ratios = []
        for step in range(_PARTS):
            group = steps == step
            if group.any():
                noise, power = float(self.noise[group].sum()), float(signal[group].sum())
                ratios.append(decibels(power, noise))
        return min(ratios, default=-math.inf)


@dataclass(slots=True)
class Meter:
    """Counts what a file does to outputs, sample by sample."""

    heads: Sequence[Head]
    samples: int = 0
    _same: list[float] = field(default_factory=list)
    _losses: list[float] = field(default_factory=list)
    _channels: dict[tuple[str, int], Channels] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

    @property
    def names(self) -> list[str]:
        """Return the outputs that are looked at."""
        return [head.name for head in self.heads]

    def add(self, wanted: Outputs, got: Outputs) -> None:
        """Count one sample."""
        self.samples += 1
        for head in self.heads:
            exact, other = wanted[head.name], got[head.name]
            if exact.shape != other.shape:
                continue  # what is found varies: a list of boxes is not compared with another
            if head.kind == "power":
                self._add_values(head, np.asarray(exact, np.float64), np.asarray(other, np.float64))
            else:
                self._add_classes(head, exact, other)

    def _add_values(self, head: Head, wanted: npt.NDArray[np.float64], got: npt.NDArray[np.float64]) -> None:
        axes = [axis for axis in range(1, wanted.ndim) if 1 < wanted.shape[axis] <= _MOST_CHANNELS]
        if not axes:
            wanted, got, axes = wanted.reshape(-1, 1), got.reshape(-1, 1), [1]
        for axis in axes:
            self._channels.setdefault((head.name, axis), Channels()).add(wanted, got, axis)

    def _add_classes(self, head: Head, wanted: npt.NDArray[np.generic], got: npt.NDArray[np.generic]) -> None:
        rows = [np.moveaxis(np.asarray(x, np.float64), head.axis, -1) for x in (wanted, got)]
        exact, other = (row.reshape(-1, row.shape[-1]) for row in rows)
        if not np.isfinite(other).all():
            self._broken.add(head.name)
            return
        self._same += (exact.argmax(-1) == other.argmax(-1)).astype(float).tolist()
        logs = [np.log(np.maximum(x, 1e-30)) if head.probabilities else x for x in (exact, other)]
        first, second = map(log_softmax, logs)
        self._losses.append(float((np.exp(first) * (first - second)).sum(-1).mean()))

    def damage(self) -> Damage:
        """Return the figures so far."""
        ratios: dict[str, float] = {}
        for (name, _), channels in self._channels.items():
            # Along an axis of positions all groups are alike: of several axes the worst tells.
            ratios[name] = min(ratios.get(name, np.inf), channels.worst())
        ratios |= dict.fromkeys(self._broken, -np.inf)
        worst = min(ratios, key=lambda name: ratios[name], default="")
        return Damage(
            self.samples,
            float(np.mean(self._same)) if self._same else None,
            float(np.mean(self._losses)) if self._losses else None,
            ratios[worst] if ratios else None,
            worst if len(self.heads) > 1 else "",
        )


def decibels(power: float, noise: float) -> float:
    """Return a ratio in dB; no noise is inf, noise without a signal, or one that is not finite, -inf."""
    if not np.isfinite(noise):
        return -np.inf
    if noise <= 0:
        return np.inf
    return float(10 * np.log10(power / noise)) if power > 0 else -np.inf
