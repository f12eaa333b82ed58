"""Tensors of many samples between two segments: in memory as far as there is room for them, in files beyond that.

Files hold numbers alone. Threads read them side by side, which numpy's own form does not bear: CPython 3.11 may fail
where two of them read its header at a time.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxmpq.refit.moments import Array


@dataclass(frozen=True, slots=True)
class _File:
    """A tensor in a file."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def read(self) -> Array:
        found: Array = np.fromfile(self.path, self.dtype).reshape(self.shape)
        return found


class Shelf:
    """The tensors of every sample, by name."""

    def __init__(self, folder: Path, room: int) -> None:
        """Hold ``room`` bytes in memory; files are written into a folder."""
        self.folder, self.left = folder, room
        self._held: list[dict[str, Array | _File]] = []
        self._files = 0

    def __len__(self) -> int:
        return len(self._held)

    def new(self, values: Mapping[str, Array]) -> None:
        """Begin with what the next sample feeds."""
        self._held.append({})
        self.put(len(self._held) - 1, values)

    def put(self, sample: int, values: Mapping[str, Array]) -> None:
        """Keep tensors of a sample; what is no array of plain numbers has no plain file."""
        for name, array in values.items():
            size = getattr(array, "nbytes", 0)
            if size <= self.left or array.dtype.kind not in "fiu":
                self.left -= size
                self._held[sample][name] = array
            else:
                self._files += 1
                file = self.folder / f"{self._files}.bin"
                array.tofile(file)
                self._held[sample][name] = _File(file, array.dtype, array.shape)

    def get(self, sample: int, names: Iterable[str]) -> dict[str, Array]:
        """Return some tensors of a sample."""
        held = self._held[sample]
        return {name: kept.read() if isinstance(kept := held[name], _File) else kept for name in names}

    def keep(self, wanted: Callable[[str], bool]) -> None:
        """Let go of all that is not wanted any more."""
        for held in self._held:
            for name in [name for name in held if not wanted(name)]:
                kept = held.pop(name)
                if isinstance(kept, _File):
                    kept.path.unlink()
                else:
                    self.left += getattr(kept, "nbytes", 0)
