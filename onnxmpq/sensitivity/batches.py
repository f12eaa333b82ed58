"""Samples in the files that workers read: some to a batch, and those that a model takes together as one feed."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxmpq.data.blends import Blended, may_blend
from onnxmpq.data.samples import Samples
from onnxmpq.metrics.losses import Head
from onnxmpq.options import MeasureOptions
from onnxmpq.workspace.workspace import Workspace

Feed = Mapping[str, npt.NDArray[Any]]
_TOGETHER = 8
"""Samples that run together: more would leave the processor's caches."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The feeds of one batch, how many rows each has, and the labels of all of them where there are any."""

    feeds: list[dict[str, npt.NDArray[Any]]]
    rows: list[int]
    labels: npt.NDArray[np.int64] | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Where batches lie, how many there are, and the samples in them.

    ``given`` samples became ``samples``, of which the first ``plain`` are no blends.
    """

    folder: Path
    batches: int
    size: int
    given: int
    samples: int
    plain: int

    @property
    def repeats(self) -> float:
        """How many samples are measured for each that was given."""
        return self.samples / self.given


def lay_out(
    workspace: Workspace, heads: tuple[Head, ...], options: MeasureOptions, size_within: Callable[[int, int], int]
) -> Layout:
    """Write batches into a new folder of a workspace, with blends behind the samples where they are measured.

    ``size_within`` tells how many of so many samples may run together within a ceiling of memory.
    """
    samples, rows = workspace.samples, max(workspace.samples.batch, 1)
    count = min(len(samples), options.samples or len(samples))
    feeds: Iterator[Feed] = islice(samples, count)
    labels = samples.labels
    plain = measured = count
    if _blended(samples, count, heads, options):
        found = Blended(count)
        feeds, labels = found.feeds(samples), None
        plain, measured = len(found.plain), len(found.plain) + len(found.pairs)
    size = options.batch or size_within(options.memory, measured)
    stack = _may_stack(workspace, heads)
    folder = Path(tempfile.mkdtemp(prefix="batches-", dir=workspace.folder))
    batches = first = 0
    while group := list(islice(feeds, size)):
        joined, of_each = _stacked(group, rows) if stack else (group, [rows] * len(group))
        arrays = {f"{i}/{name}": array for i, feed in enumerate(joined) for name, array in feed.items()}
        arrays["rows"] = np.array(of_each)
        if labels is not None:
            arrays["labels"] = labels[first : first + sum(of_each)]
        first += sum(of_each)
        np.savez(_file(folder, batches), **arrays)  # type: ignore[arg-type]
        batches += 1
    return Layout(folder, batches, size, count * rows, measured * rows, plain * rows)


def _blended(samples: Samples, count: int, heads: tuple[Head, ...], options: MeasureOptions) -> bool:
    """Tell whether blends are measured: they are asked for, samples can be blended, and the loss allows it.

    Cross-entropy needs labels, which blends have not; of a user's function nothing is known.
    """
    losses = options.function is None and all(head.kind != "ce" for head in heads)
    return bool(options.blends) and losses and count > 1 and may_blend(samples)


def _stacked(group: list[Feed], rows: int) -> tuple[list[Feed], list[int]]:
    """Join samples of one shape that run together, a few at a time; return the feeds and the rows of each."""
    if len({tuple((name, array.shape) for name, array in feed.items()) for feed in group}) > 1:
        return group, [rows] * len(group)
    parts = [group[i : i + _TOGETHER] for i in range(0, len(group), _TOGETHER)]
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


def _may_stack(workspace: Workspace, heads: tuple[Head, ...]) -> bool:
    """Tell whether samples can run as one batch: two together give what they give alone."""
    feeds = list(islice(workspace.samples, 2))
    free = all(spec.shape and not isinstance(spec.shape[0], int) for spec in workspace.inputs)
    if len(feeds) < 2 or workspace.samples.batch != 1 or not free:
        return False
    if any(feeds[0][name].shape != feeds[1][name].shape for name in feeds[0]):
        return False
    session = workspace.reference.session(workspace.float_model, mode="deployed")
    pair = {name: np.concatenate([feeds[0][name], feeds[1][name]]) for name in feeds[0]}
    alone = [session.run(feed) for feed in feeds[:2]]
    together = session.run(pair)
    for head in heads:
        want = np.concatenate([np.asarray(one[head.name]) for one in alone])
        got = together[head.name]
        if got.shape != want.shape or not np.allclose(got, want, rtol=1e-3, atol=1e-4 * float(np.abs(want).max())):
            return False
    return True
