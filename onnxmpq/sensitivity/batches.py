"""Samples in the files that workers read: some to a batch, and those that a model takes together as one feed.

Of many samples of a large model a first stage comes first, in batches of its own: as many of every kind, from
everywhere among them. A search measures all that it might do on these, and only what may be the best on all.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmpq.data.blends import FEW, Blended, at, may_blend
from onnxmpq.data.samples import Samples
from onnxmpq.metrics.losses import Head, doubt, rows_of
from onnxmpq.options import MEMORY, MeasureOptions
from onnxmpq.runtimes import Session
from onnxmpq.runtimes.devices import Device
from onnxmpq.workspace.workspace import Workspace

Feed = Mapping[str, npt.NDArray[Any]]
SURER = 2.0
"""How often less a model must doubt samples than blends of them for these to take the place of some."""
_LOOKED_AT = 32  # samples, and as many blends, to tell that
STAGE = 64
"""Samples of the first stage at least; what is chosen on fewer does not hold for others."""
STAGE_MACS = 24_000_000_000
"""What running the first stage takes, in multiply-accumulates: where samples are cheap there are more of them."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The feeds of one batch, how many rows each has, and the labels of all of them where there are any."""

    feeds: list[dict[str, npt.NDArray[Any]]]
    rows: list[int]
    labels: npt.NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where batches lie, and the samples in them.

    ``sizes`` are the samples of every batch, the ``first`` of them those of the first stage. ``given`` samples became
    ``places``, by their places in the order they came in: from ``plain`` on they are blends. A sample has ``rows``,
    and ``together`` samples run as one: another number of them gives other last bits.
    """

    folder: Path
    sizes: tuple[int, ...]
    first: int
    given: int
    places: tuple[int, ...]
    plain: int
    rows: int = 1
    together: int = 1

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self.sizes)

    @property
    def size(self) -> int:
        """The samples of the largest batch."""
        return max(self.sizes)

    @property
    def samples(self) -> int:
        """How many rows are measured, blends among them."""
        return len(self.places) * self.rows

    @property
    def repeats(self) -> float:
        """How many samples are measured for each that was given."""
        return len(self.places) / self.given

    def share(self, batches: int) -> float:
        """Return the share of the samples that are in the first so many batches."""
        return sum(self.sizes[:batches]) / len(self.places)

    def own(self, rows: int) -> npt.NDArray[np.int64]:
        """Return which of the first so many rows are of samples that are no blends, in the order they came in."""
        places = np.repeat(self.places, self.rows)[:rows]
        kept = np.flatnonzero(places < self.plain)
        return kept[np.argsort(places[kept], kind="stable")]


def lay_out(
    workspace: Workspace,
    heads: tuple[Head, ...],
    options: MeasureOptions,
    macs: int,
    largest: int,
    size_within: Callable[[int, int], int],
    device: Device,
) -> Layout:
    """Write batches into a new folder of a workspace, with blends behind the samples where they are measured.

    ``macs`` is what running one sample takes, ``largest`` the bytes of its largest tensor; ``size_within`` tells how
    many of so many samples a batch may have within a ceiling of memory: a GPU's own where it has any and no other was
    told.
    """
    samples = workspace.samples
    rows = rows_of(workspace.output_shapes, heads, samples.batch)
    count = min(len(samples), options.samples or len(samples))
    labels = samples.labels
    opened = cache(partial(workspace.reference.session, workspace.float_model, mode="deployed"))
    blends = Blended(count) if _blended(samples, count, heads, options, opened) else None
    plain = len(blends.plain) if blends else count
    total = plain + (len(blends.pairs) if blends else 0)
    size = options.batch or size_within(_ceiling(options, device), total)
    together = min(device.together, max(device.cache // max(largest, 1), 1)) if device.cache else device.together
    together = together if together > 1 and _may_stack(workspace, heads, opened) else 1
    opened.cache_clear()
    folder = Path(tempfile.mkdtemp(prefix="batches-", dir=workspace.folder))
    sizes: list[int] = []
    stages = _stages(plain, total, options.stage or max(STAGE, STAGE_MACS // max(macs * rows, 1)))
    for stage in stages:
        feeds = blends.feeds(samples, stage) if blends else at(samples, stage)
        for start in range(0, len(stage), size):
            places = stage[start : start + size]
            group = list(islice(feeds, len(places)))
            joined, of_each = _stacked(group, rows, together) if together > 1 else (group, [rows] * len(group))
            arrays = {f"{i}/{name}": array for i, feed in enumerate(joined) for name, array in feed.items()}
            arrays["rows"] = np.array(of_each)
            if labels is not None and not blends:
                arrays["labels"] = np.concatenate([labels[place * rows : (place + 1) * rows] for place in places])
            np.savez(_file(folder, len(sizes)), **arrays)  # type: ignore[arg-type]
            sizes.append(len(places))
    first = -(-len(stages[0]) // size)
    return Layout(folder, tuple(sizes), first, count, tuple(chain.from_iterable(stages)), plain, rows, together)


def _ceiling(options: MeasureOptions, device: Device) -> int:
    """Return the ceiling that was told, else a GPU's own, of which every process on it has a share."""
    if options.memory != MEMORY:
        return options.memory
    each = -(-options.jobs // len(options.devices)) or 1
    return max(device.room // each, MEMORY)


def _stages(plain: int, total: int, stage: int) -> list[list[int]]:
    """Return the places of samples, those of the first stage before the rest where there are twice as many."""
    if total < 2 * stage:
        return [list(range(total))]
    kept = stage * plain // total
    first = [number * plain // kept for number in range(kept)]
    blends = total - plain
    first += [plain + number * blends // (stage - kept) for number in range(stage - kept)] if blends else []
    return [first, sorted(set(range(total)) - set(first))]


def _blended(
    samples: Samples, count: int, heads: tuple[Head, ...], options: MeasureOptions, opened: Callable[[], Session]
) -> bool:
    """Tell whether blends are measured: samples can be blended, the loss allows it, and they are asked for.

    Cross-entropy needs labels, which blends have not; of a user's function nothing is known. Of few samples all are
    measured beside their blends; of more, blends take the place of some.
    """
    losses = options.function is None and all(head.kind != "ce" for head in heads)
    if not (options.blends and losses and count > 1 and may_blend(samples)):
        return False
    return options.blends != "sure" or count <= FEW or _surer(samples, count, heads, opened())


def _surer(samples: Samples, count: int, heads: tuple[Head, ...], session: Session) -> bool:
    """Tell whether the float model is much surer of samples than of blends of them, looking at some of each."""
    some = Blended(min(count, 2 * _LOOKED_AT), _LOOKED_AT)
    found = [doubt(session.run(feed), heads) for feed in some.feeds(samples)]
    plain, blended = np.mean(found[: len(some.plain)]), np.mean(found[len(some.plain) :])
    return bool(blended > SURER * plain)


def _stacked(group: list[Feed], rows: int, together: int) -> tuple[list[Feed], list[int]]:
    """Join samples of one shape that run together, a few at a time; return the feeds and the rows of each."""
    if len({tuple((name, array.shape) for name, array in feed.items()) for feed in group}) > 1:
        return group, [rows] * len(group)
    parts = [group[i : i + together] for i in range(0, len(group), together)]
    joined: list[Feed] = [{name: np.concatenate([feed[name] for feed in part]) for name in part[0]} for part in parts]
    return joined, [len(part) for part in parts]


def read_batch(folder: Path, index: int) -> Batch:
    """Read one batch."""
    with np.load(_file(folder, index), allow_pickle=False) as data:
        feeds: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for key in data.files:
            place, _, name = key.partition("/")
            if name:
                feeds.setdefault(place, {})[name] = data[key]
        rows = [int(rows) for rows in data["rows"]]
    return Batch([feeds[str(i)] for i in range(len(feeds))], rows, read_labels(folder, index))


def read_labels(folder: Path, index: int) -> npt.NDArray[np.int64] | None:
    """Read the labels of one batch, and nothing else of it."""
    with np.load(_file(folder, index), allow_pickle=False) as data:
        return data["labels"] if "labels" in data.files else None


def _file(folder: Path, index: int) -> Path:
    return folder / f"batch_{index:05d}.npz"


def _may_stack(workspace: Workspace, heads: tuple[Head, ...], opened: Callable[[], Session]) -> bool:
    """Tell whether samples can run as one batch: two together give what they give alone."""
    feeds = list(islice(workspace.samples, 2))
    free = all(spec.shape and not isinstance(spec.shape[0], int) for spec in workspace.inputs)
    if len(feeds) < 2 or workspace.samples.batch != 1 or not free:
        return False
    if any(feeds[0][name].shape != feeds[1][name].shape for name in feeds[0]):
        return False
    session = opened()
    pair = {name: np.concatenate([feeds[0][name], feeds[1][name]]) for name in feeds[0]}
    alone = [session.run(feed) for feed in feeds[:2]]
    together = session.run(pair)
    for head in heads:
        want = np.concatenate([np.asarray(one[head.name]) for one in alone])
        got = together[head.name]
        if got.shape != want.shape or not np.allclose(got, want, rtol=1e-3, atol=1e-4 * float(np.abs(want).max())):
            return False
    return True
