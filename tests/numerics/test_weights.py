"""Weights: shapes as ONNX wants them, codes as the runtime makes them, errors as small as promised."""

import math
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxmpq.errors import InputError, InternalError
from onnxmpq.numerics.weights import QuantisedWeight, dequantise, quantise_weight

Floats = npt.NDArray[np.float32]
Options = dict[str, Any]

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-2, 2, width=32)
WEIGHTS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=FLOATS)
RNG = np.random.default_rng(0)
CONV = (RNG.standard_normal((16, 8, 3, 3)) * RNG.gamma(1, 1, (16, 1, 1, 1))).astype(np.float32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Floats, Options]:
    """Draw a weight, and options that fit it."""
    weight = draw(WEIGHTS)
    axis = draw(st.integers(0, weight.ndim - 1))
    options: Options = {
        "bits": draw(st.integers(2, 8)),
        "signed": draw(st.booleans()),
        "symmetric": draw(st.booleans()),
    }
    options |= draw(st.sampled_from([{}, {"axes": (axis,)}, {"block": (axis, draw(st.integers(1, 6)))}]))
    return weight, options


def _error(weight: Floats, q: QuantisedWeight, importance: Any = 1.0) -> float:
    return float((importance * (dequantise(q).astype(np.float64) - weight) ** 2).sum())


def _spread(q: QuantisedWeight, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Repeat scales over the weight, written axis by axis."""
    shape = q.codes.shape
    index = np.indices(shape)
    if q.block:
        index[q.block[0]] //= q.block[1]
        return values[tuple(index)]
    return values[tuple(index[list(q.axes or ())])] if q.axes else np.broadcast_to(values, shape)


@given(cases(), st.sampled_from(["minmax", "mse"]))
def test_shapes_codes_and_scales_are_valid(case: tuple[Floats, Options], method: Literal["minmax", "mse"]) -> None:
    weight, options = case
    q = quantise_weight(weight, method=method, **options)
    signed, bits = options["signed"], options["bits"]
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert q.codes.shape == weight.shape
    assert q.codes.dtype == (np.int8 if signed else np.uint8)
    assert low + (options["symmetric"] and bits > 4) <= q.codes.min(initial=high)
    assert q.codes.max(initial=low) <= high
    assert q.scale.dtype == np.float32
    assert (np.isfinite(q.scale) & (q.scale >= np.finfo(np.float32).tiny)).all()
    if q.block:
        axis, size = q.block
        assert q.scale.shape == (*weight.shape[:axis], -(-weight.shape[axis] // size), *weight.shape[axis + 1 :])
    else:
        assert q.scale.shape == tuple(weight.shape[axis] for axis in q.axes or ())
    if options["symmetric"] and signed:
        assert q.zero_point is None
    else:
        assert q.zero_point is not None
        assert (q.zero_point.shape, q.zero_point.dtype) == (q.scale.shape, q.codes.dtype)
        assert low <= q.zero_point.min(initial=high)
        assert q.zero_point.max(initial=low) <= high
    assert (dequantise(q)[weight == 0] == 0).all()


@given(cases())
def test_minmax_rounds_by_at_most_half_a_step(case: tuple[Floats, Options]) -> None:
    weight, options = case
    q = quantise_weight(weight, method="minmax", **options)
    lost = np.abs(dequantise(q).astype(np.float64) - weight)
    assert (lost <= _spread(q, q.scale) * 0.5 * (1 + 2**-12)).all()


@given(cases(), st.booleans())
def test_least_error_is_never_more_than_that_of_minmax(case: tuple[Floats, Options], weighed: bool) -> None:
    weight, options = case
    importance = np.arange(weight.shape[-1], dtype=np.float32) if weighed else None
    least, minmax = (
        quantise_weight(weight, method=method, importance=importance, **options) for method in ("mse", "minmax")
    )
    assert _error(weight, least, 1 if importance is None else importance) <= _error(
        weight, minmax, 1 if importance is None else importance
    ) * (1 + 1e-12)


@given(cases())
def test_dequantising_is_multiplying_in_float32(case: tuple[Floats, Options]) -> None:
    weight, options = case
    q = quantise_weight(weight, **options)
    zero_point = 0 if q.zero_point is None else _spread(q, q.zero_point.astype(np.int32))
    expected = (q.codes.astype(np.int32) - zero_point).astype(np.float32) * _spread(q, q.scale)
    assert dequantise(q).dtype == np.float32
    np.testing.assert_array_equal(dequantise(q), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("spread", ["bell", "tails", "one-sided"])
def test_least_error_is_what_a_dense_search_finds(bits: int, spread: str) -> None:
    weight = (RNG.standard_t(3, 4096) if spread == "tails" else RNG.standard_normal(4096)).astype(np.float32)
    weight = np.abs(weight) if spread == "one-sided" else weight
    q = quantise_weight(weight, bits=bits)
    low, high = (-(2 ** (bits - 1)) + (bits > 4), 2 ** (bits - 1) - 1)
    scales = np.abs(weight).max() / high * np.geomspace(1, 0.01, 2000)[:, None]
    dense = ((np.clip(np.rint(weight / scales), low, high) * scales - weight) ** 2).sum(axis=1).min()
    assert _error(weight, q) <= dense * 1.02


def test_two_bits_put_the_heavier_side_where_there_are_more_codes() -> None:
    weight = np.array([-2, -1, 0, 1], np.float32)
    methods: tuple[Literal["minmax"], Literal["mse"]] = ("minmax", "mse")
    for method in methods:
        q = quantise_weight(weight, bits=2, method=method)
        assert (q.codes.tolist(), q.scale.item()) == ([-2, -1, 0, 1], 1.0)
    narrow = quantise_weight(weight, bits=2, narrow=True)
    assert narrow.codes.min() == -1


def test_eight_bits_never_use_the_lowest_code_unless_told_to() -> None:
    weight = np.linspace(-1, 0.5, 999, dtype=np.float32)
    assert quantise_weight(weight, bits=8).codes.min() == -127
    assert quantise_weight(weight, bits=8, method="minmax", narrow=False).codes.min() == -128


def test_each_channel_is_quantised_by_itself() -> None:
    together = quantise_weight(CONV, bits=4, axes=(0,))
    for channel in range(16):
        alone = quantise_weight(CONV[channel], bits=4)
        assert together.scale[channel] == alone.scale
        assert (together.codes[channel] == alone.codes).all()


def test_blocks_and_directions_have_their_own_scales() -> None:
    matrix = CONV.reshape(16, 72)
    ragged = quantise_weight(matrix, bits=4, block=(1, 32))
    assert ragged.scale.shape == (16, 3)
    assert ragged.scale[5, 2] == quantise_weight(matrix[5, 64:], bits=4).scale
    turned = quantise_weight(np.ascontiguousarray(matrix.T), bits=4, block=(0, 32))
    assert (turned.scale == ragged.scale.T).all()
    assert (turned.codes == ragged.codes.T).all()
    lstm = quantise_weight(CONV.reshape(2, 8, 72), bits=8, axes=(0, 1))
    assert lstm.scale.shape == (2, 8)
    assert lstm.scale[1, 3] == quantise_weight(CONV[11].reshape(72), bits=8).scale


def test_importance_moves_the_error_to_what_matters_less() -> None:
    importance = np.where(np.arange(8) < 4, 100.0, 1.0).reshape(1, 8, 1, 1)
    plain, weighed = (quantise_weight(CONV, bits=3, axes=(0,), importance=each) for each in (None, importance))
    assert _error(CONV, weighed, importance) < _error(CONV, plain, importance)
    assert _error(CONV[:, :4], QuantisedWeight(weighed.codes[:, :4], weighed.scale, None, 3, (0,))) < _error(
        CONV[:, :4], QuantisedWeight(plain.codes[:, :4], plain.scale, None, 3, (0,))
    )


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0), (1,)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_degenerate_weights_are_quantised(shape: tuple[int, ...], symmetric: bool) -> None:
    for value in (0.0, 1e-45, 1e-38, -3e38, 5.0):
        weight = np.full(shape, value, np.float32)
        for axes in (None, *((axis,) for axis in range(len(shape)))):
            q = quantise_weight(weight, bits=8, axes=axes, symmetric=symmetric)
            assert q.codes.shape == shape
            assert (q.scale == 1).all() or value
            np.testing.assert_allclose(dequantise(q), weight, rtol=0.01, atol=1e-38)


def test_long_rows_are_searched_piece_by_piece() -> None:
    weight = RNG.standard_normal(200_000).astype(np.float32)
    q = quantise_weight(weight, bits=4)
    assert q.scale.item() == pytest.approx(0.335, abs=0.02)  # the best step for a bell of width 1 (Max 1960)


def test_half_precision_weights_are_taken() -> None:
    q = quantise_weight(CONV.astype(np.float16), bits=8, axes=(0,))
    assert (q.codes == quantise_weight(CONV.astype(np.float16).astype(np.float32), bits=8, axes=(0,)).codes).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": np.array([1, np.nan])}, InputError, "NaN or infinite"),
        ({"method": "best"}, InputError, "no weight method 'best'. Choose one of: minmax, mse"),
        ({"bits": 9}, InternalError, "2 to 8 bits"),
        ({"axes": (0,), "block": (0, 2)}, InternalError, "axes or blocks"),
        ({"importance": np.array([-1.0])}, InternalError, "negative"),
    ],
)
def test_mistake_is_named(change: Options, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quantise_weight(**(Options(weight=CONV, bits=8) | change))


def _dequantised_by_onnxruntime(q: QuantisedWeight, stored: type[Any]) -> tuple[Floats, int]:
    """Store the codes in their packed type, let onnxruntime dequantise them; also count the stored bytes."""
    codes = ir.Tensor(q.codes.astype(stored), name="q")
    tensors = [codes, ir.Tensor(q.scale, name="s")]
    if q.zero_point is not None:
        tensors.append(ir.Tensor(q.zero_point.astype(stored), name="z"))
    node = onnx.helper.make_node("DequantizeLinear", [t.name or "" for t in tensors], ["y"])
    axis, size = q.block or ((q.axes or (1,))[0], 0)
    node.attribute.append(onnx.helper.make_attribute("axis", axis))
    node.attribute.append(onnx.helper.make_attribute("block_size", size))
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, q.codes.shape)
    graph = onnx.helper.make_graph([node], "dq", [], [out], [ir.to_proto(t) for t in tensors])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 25)], ir_version=13)
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0]), codes.nbytes


@pytest.mark.parametrize(
    ("bits", "signed", "stored"),
    [
        (8, True, np.int8),
        (8, False, np.uint8),
        (4, True, ml_dtypes.int4),
        (4, False, ml_dtypes.uint4),
        (3, True, ml_dtypes.int4),
        (2, True, ml_dtypes.int2),
        (2, False, ml_dtypes.uint2),
    ],
)
@pytest.mark.parametrize("where", [{}, {"axes": (0,)}, {"axes": (1,)}, {"block": (1, 4)}, {"block": (0, 5)}], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_onnxruntime_dequantises_to_the_same_values(
    bits: int, signed: bool, stored: type[Any], where: Options, symmetric: bool
) -> None:
    weight = CONV[:, :, 0, 0]
    q = quantise_weight(weight, bits=bits, signed=signed, symmetric=symmetric, **where)
    values, size = _dequantised_by_onnxruntime(q, stored)
    np.testing.assert_array_equal(values, dequantise(q))
    assert size == math.ceil(weight.size * (2 if bits == 2 else 8 if bits == 8 else 4) / 8)


@given(hnp.arrays(np.float32, (6, 5), elements=st.floats(-1e6, 1e6, width=32)), st.booleans(), st.booleans())
def test_codes_are_those_of_onnxruntime_on_minmax_scales(weight: Floats, signed: bool, symmetric: bool) -> None:
    q = quantise_weight(weight, bits=8, signed=signed, symmetric=symmetric, axes=(0,), method="minmax")
    zero_point = np.zeros(6, q.codes.dtype) if q.zero_point is None else q.zero_point
    codes = _session(signed).run(None, {"w": weight, "s": q.scale, "z": zero_point})[0]
    np.testing.assert_array_equal(codes, q.codes)


_SESSIONS: dict[bool, Any] = {}


def _session(signed: bool) -> Any:
    """Make QuantizeLinear along axis 0, with scale and zero point as inputs."""
    if signed not in _SESSIONS:
        kind = onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8
        types = {"w": onnx.TensorProto.FLOAT, "s": onnx.TensorProto.FLOAT, "z": kind, "q": kind}
        values = {name: onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()}
        node = onnx.helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0)
        graph = onnx.helper.make_graph([node], "q", [values[name] for name in "wsz"], [values["q"]])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
        _SESSIONS[signed] = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return _SESSIONS[signed]
