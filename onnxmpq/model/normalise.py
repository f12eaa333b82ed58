"""Bring a model into the form that all later stages read.

One opset, no functions, no Constant nodes, no Identity, no Dropout, no BatchNorm behind a layer that can take it in;
every node and value named, types and shapes filled in. Names, types and order of inputs and outputs stay, and so do
the numbers that come out, but for the rounding of folded arithmetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxmpq.model.load import Source
from onnxmpq.model.passes import pipeline, read_pass
from onnxmpq.model.passkit import PassRecord, Pipeline


@dataclass(frozen=True)
class Normal:
    """A normalised model, the digest of the one it was made of, and the passes that made it."""

    model: ir.Model
    source_sha256: str
    records: tuple[PassRecord, ...]


def normalise(
    source: Source, progress: Callable[[str], None] | None = None, extra_passes: Sequence[str] = ()
) -> Normal:
    """Normalise a copy of the model, which shares its weights; the source stays as it is.

    ``extra_passes`` names passes that see the normalised model; what they leave is normalised again.
    """
    usual = pipeline("normalise").passes
    extra = tuple(read_pass(text) for text in extra_passes)
    model = source.model.clone()
    return Normal(model, source.sha256, Pipeline((*usual, *extra, *usual) if extra else usual).run(model, progress))
