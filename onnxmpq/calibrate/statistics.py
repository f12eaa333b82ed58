"""What was counted of a model's tensors: one for measuring, for export and for workers, in one folder.

ranges.npz      histograms and means, written when workers are to read them
hessians/       Hessians, and weights that were rounded with them
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from onnxmpq.numerics.hessians import Hessians
from onnxmpq.numerics.histograms import Histogram, Ranges


@dataclass(slots=True)
class Statistics:
    """Histograms and means of tensors, which grow as plans need them, and the Hessians of weights.

    Without a ``folder`` there is no place for Hessians, and weights take the nearest codes.
    """

    folder: Path | None = None
    tensors: dict[str, Histogram] = field(default_factory=dict)
    means: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def hessians(self) -> Hessians | None:
        """The Hessians, if there is a place for them."""
        return Hessians(self.folder / "hessians") if self.folder else None

    def apart(self, folder: Path) -> Self:
        """Return the same, of which means and Hessians may become others; Hessians lie in another folder."""
        found = type(self)(folder, self.tensors, dict(self.means))
        if self.hessians is not None and found.hessians is not None:
            found.hessians.take(self.hessians)
        return found

    def add(self, found: Ranges) -> None:
        """Take in what a pass over the samples has counted."""
        self.tensors |= found.tensors
        self.add_means(found.means)

    def add_means(self, means: Mapping[str, np.ndarray]) -> None:
        """Take in means of tensors, which may be known already."""
        self.means.update(means)

    def write(self, folder: Path, samples: int) -> None:
        """Write histograms and means for others to read; Hessians lie in the folder from the beginning."""
        Ranges(self.tensors, samples, self.means).write(folder / "ranges.npz")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what ``write`` wrote."""
        found = Ranges.read(folder / "ranges.npz")
        return cls(folder, dict(found.tensors), dict(found.means))
