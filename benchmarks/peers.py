"""onnxruntime's own quantisers, in the configurations worth comparing with.

``static default`` is what ``quantize_static`` does when told nothing. The other static configurations are candidates
for the best it can do here: unsigned activations with signed weights per channel, everywhere or in Conv, MatMul and
Gemm only (``weighted``), with or without (``raw``) its own preprocessing, which rewrites HardSwish into two nodes.
Which of them is best is found by measuring. The same goes for ``quantize_dynamic``, for all operators or matrix
products only.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onnxmpq.errors import RuntimeMissingError

Feed = dict[str, np.ndarray]
Kind = Literal["static default", "static", "dynamic"]
PRODUCTS = ("Conv", "MatMul", "Gemm")


@dataclass(frozen=True, slots=True)
class Peer:
    """One configuration: unsigned activations and weights per channel or the defaults, in these operators or in all."""

    name: str
    kind: Kind
    per_channel: bool = False
    operators: tuple[str, ...] = ()
    preprocess: bool = True


PEERS = (
    Peer("static default", "static default"),
    Peer("static u8s8", "static", True),
    Peer("static u8s8, raw", "static", True, preprocess=False),
    Peer("static u8s8 weighted", "static", True, PRODUCTS),
    Peer("static u8s8 weighted, raw", "static", True, PRODUCTS, preprocess=False),
    Peer("dynamic", "dynamic"),
    Peer("dynamic, MatMul/Gemm", "dynamic", True, ("MatMul", "Gemm")),
)


class _Reader:
    """Calibration data as onnxruntime reads it."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """Give the next feed."""
        return next(self._feeds, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantisers' advice off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantise(peer: Peer, model: bytes, feeds: Sequence[Feed], nodes: Sequence[str] = ()) -> bytes:
    """Quantise with this configuration, only ``nodes`` if any are named; what the quantiser raises comes through."""
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise RuntimeMissingError("Comparing with onnxruntime's quantisers needs onnxruntime and onnx.") from error
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as folder, _quiet():
        source, prepared, result = (Path(folder) / name for name in ("model.onnx", "prepared.onnx", "result.onnx"))
        source.write_bytes(model)
        if peer.preprocess:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            source = prepared
        options: dict[str, Any] = {"per_channel": peer.per_channel}
        if nodes:
            options["nodes_to_quantize"] = list(nodes)
        if peer.operators:
            options["op_types_to_quantize"] = list(peer.operators)
        if peer.kind == "dynamic":
            quantization.quantize_dynamic(str(source), str(result), **options)
        else:
            if peer.kind == "static":
                options["activation_type"] = quantization.QuantType.QUInt8
            reader: Any = _Reader(feeds)  # onnxruntime asks for its own base class, and uses get_next only
            quantization.quantize_static(str(source), str(result), reader, **options)
        return result.read_bytes()
