"""Calibrate: what is counted depends on the values alone, and ranges chosen from it do what they promise."""

import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.calibrate.run import calibrate
from onnxmpq.errors import InputError
from onnxmpq.numerics.formats import container_bits
from onnxmpq.numerics.histograms import Counting, Histogram, Ranges
from onnxmpq.numerics.ranges import Affine, QuantisedType, Range, choose_range, expected_error, quantiser
from onnxmpq.options import ACTIVATION_RANGES, ActivationRanges

Floats = npt.NDArray[np.float32]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = st.lists(FLOATS | st.floats(-4, 4, width=32), min_size=1, max_size=60)
KINDS = st.builds(QuantisedType, st.sampled_from([2, 3, 4, 5, 6, 7, 8, 12, 16]), st.booleans(), st.booleans())
BELL = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
TAILS = np.random.default_rng(1).standard_t(2, 20_000).astype(np.float32)


def _array(values: list[float]) -> Floats:
    return np.array(values, np.float32)


def _quantised(x: Floats, affine: Affine) -> npt.NDArray[np.float64]:
    codes = np.clip(np.rint(x / affine.scale) + affine.zero_point, affine.low_code, affine.high_code)
    return np.asarray((codes.astype(np.float64) - affine.zero_point) * float(affine.scale))


def _error(x: Floats, affine: Affine) -> float:
    return float(((_quantised(x, affine) - x) ** 2).sum())


@given(VALUES, st.data())
def test_histogram_does_not_depend_on_order_or_grouping(values: list[float], data: st.DataObject) -> None:
    whole = Histogram.of(_array(values))
    shuffled = _array(data.draw(st.permutations(values)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(values)))))
    parts = [Histogram.of(part) for part in np.split(shuffled, cuts)]
    forwards = sum(parts, Histogram.of(np.empty(0)))
    backwards = sum(parts[::-1], Histogram.of(np.empty(0)))
    assert forwards == whole == backwards
    assert (whole.counts == forwards.counts).all()
    counting = Counting()
    for part in np.split(shuffled, cuts):
        counting.add(part)
    assert counting.histogram() == whole


@given(VALUES)
def test_histogram_counts_each_value_in_its_bin(values: list[float]) -> None:
    x = _array(values)
    stats = Histogram.of(x)
    bins = np.floor(x.astype(np.float64) * 2.0**-stats.exponent).astype(int)
    assert (np.bincount(bins + 4096, minlength=8192) == stats.counts).all()
    assert (stats.count, stats.zeros) == (x.size, int((x == 0).sum()))
    assert (stats.min, stats.max) == (x.min(), x.max())
    largest = float(np.abs(x).max())
    assert largest < 4096 * 2.0**stats.exponent
    assert largest >= 2048 * 2.0**stats.exponent or stats.exponent == Histogram.of(np.zeros(1)).exponent


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_ranges_survive_being_written(values: list[list[float]]) -> None:
    tensors = {f"t/{i}": Histogram.of(_array(part)) for i, part in enumerate(values)}
    means = {"a mean\u2028": np.array(values[0]).reshape(1, -1), "of nothing": np.zeros((2, 0)), "one": np.array(0.1)}
    ranges = Ranges(tensors | {"none": Histogram.of(np.empty(0))}, 3, means)
    with tempfile.TemporaryDirectory() as folder:
        ranges.write(Path(folder) / "ranges.npz")
        again = Ranges.read(Path(folder) / "ranges.npz")
    assert (again.tensors, again.samples) == (ranges.tensors, 3)
    assert again.means.keys() == means.keys()
    for name, mean in means.items():
        np.testing.assert_array_equal(again.means[name], mean, strict=True)


def test_ranges_of_another_schema_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Ranges, "schema", 99)
        Ranges({}, 0).write(tmp_path / "ranges.npz")
    with pytest.raises(InputError, match="schema 99, expected 2"):
        Ranges.read(tmp_path / "ranges.npz")


def _run(feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {"relu": np.maximum(feed["x"], 0), "double": feed["x"].astype(np.float64) * 2}


def test_two_samples_run_side_by_side_and_count_in_order() -> None:
    both = threading.Barrier(2, timeout=20)

    def run(feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        both.wait()
        return _run(feed)

    feeds = [{"x": BELL[k * 100 : k * 100 + 100]} for k in range(4)]
    channels = {"double": 0}
    assert calibrate(run, feeds, ["relu"], channels).tensors == calibrate(_run, feeds, ["relu"], channels).tensors


def test_what_a_run_raises_is_raised_and_no_more_is_run() -> None:
    ran: list[int] = []

    def run(feed: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        ran.append(int(feed["x"][0]))
        if ran[-1] == 2:
            raise InputError("It does not fit.")
        return _run(feed)

    with pytest.raises(InputError, match="does not fit"):
        calibrate(run, ({"x": np.full(3, k, np.float32)} for k in range(50)), ["relu"])
    assert len(ran) <= 5


def test_calibrating_streams_and_counts_every_sample() -> None:
    seen: list[int] = []

    def feeds() -> Iterator[dict[str, npt.NDArray[Any]]]:
        for k in range(10):
            assert seen == list(range(1, max(k - 2, 0) + 1)), "two samples are run while one is counted, and no more"
            yield {"x": BELL[k * 100 : k * 100 + 100]}

    ranges = calibrate(_run, feeds(), ["relu", "double"], progress=seen.append)
    assert ranges.samples == 10
    assert ranges["relu"] == Histogram.of(np.maximum(BELL[:1000], 0))
    assert ranges["double"] == Histogram.of(BELL[:1000] * 2)


def test_passes_over_parts_add_up() -> None:
    feeds = [{"x": part} for part in np.split(TAILS, 8)]
    parts = calibrate(_run, feeds[:3], ["relu"]) + calibrate(_run, feeds[3:], ["relu"])
    assert parts == calibrate(_run, feeds, ["relu"])


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_value_that_is_no_number_is_named(value: float, name: str) -> None:
    feeds = [{"x": _array([1.0, 2.0])}, {"x": _array([1.0, value])}]
    with pytest.raises(InputError, match=f"Tensor 'double' has a value that is {name} for sample 1"):
        calibrate(_run, feeds, ["double"])


@given(VALUES, KINDS)
def test_minmax_rounds_by_at_most_half_a_step(values: list[float], kind: QuantisedType) -> None:
    x = _array(values)
    affine = quantiser(choose_range(Histogram.of(x), "minmax", kind), kind)
    worst = np.abs(_quantised(x, affine) - x).max()
    assert worst <= float(affine.scale) * 0.5 * (1 + 2**-6) or worst < np.finfo(np.float32).tiny * 2**16


@given(
    VALUES,
    KINDS,
    st.sampled_from(ACTIVATION_RANGES),
    st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0)]),
)
def test_quantiser_is_always_valid(
    values: list[float], kind: QuantisedType, method: ActivationRanges, limit: tuple[float, float]
) -> None:
    stats = Histogram.of(_array(values))
    bounds = choose_range(stats, method, kind, limit=limit)
    affine = quantiser(bounds, kind, limit)
    assert bounds.low <= bounds.high
    assert limit[0] <= bounds.low
    assert bounds.high <= limit[1]
    assert affine.scale.dtype == np.float32
    assert np.finfo(np.float32).tiny <= affine.scale < np.inf
    assert affine.low_code <= affine.zero_point <= affine.high_code
    assert affine.high_code - affine.low_code == 2**kind.bits - 1
    assert _quantised(_array([0.0]), affine)[0] == 0
    if limit[0] == 0 and not kind.signed:
        assert affine.zero_point == 0
    if kind.symmetric and kind.signed:
        assert affine.zero_point == 0


@given(VALUES, KINDS)
def test_least_error_is_never_more_than_that_of_minmax(values: list[float], kind: QuantisedType) -> None:
    stats = Histogram.of(_array(values))
    chosen, everything = (choose_range(stats, method, kind) for method in ("mse", "minmax"))
    assert expected_error(stats, chosen, kind) <= expected_error(stats, everything, kind)


@pytest.mark.parametrize(
    "x", [BELL, TAILS, np.maximum(BELL, 0), np.maximum(TAILS, -0.2)], ids="bell tails relu gelu".split()
)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_least_error_is_what_a_dense_search_on_the_values_finds(x: Floats, bits: int, symmetric: bool) -> None:
    kind = QuantisedType(bits, signed=symmetric, symmetric=symmetric)
    stats = Histogram.of(x)
    chosen = quantiser(choose_range(stats, "mse", kind), kind)
    ratios = np.geomspace(1, 0.01, 40)
    pairs = (
        [(low, high) for low in ratios for high in ratios]
        if x.min() < 0 and not symmetric
        else [(r, r) for r in ratios]
    )
    dense = (_error(x, quantiser(Range(stats.min * low, stats.max * high), kind)) for low, high in pairs)
    assert _error(x, chosen) <= min(dense) * 1.01


@pytest.mark.parametrize("method", ACTIVATION_RANGES)
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_expected_error_is_the_error_of_the_values(method: ActivationRanges, bits: int) -> None:
    kind, stats = QuantisedType(bits), Histogram.of(BELL)
    bounds = choose_range(stats, method, kind)
    assert expected_error(stats, bounds, kind) == pytest.approx(_error(BELL, quantiser(bounds, kind)), rel=0.02)


def test_exact_zeros_and_constants_cost_nothing() -> None:
    kind = QuantisedType(4)
    sparse = Histogram.of(np.concatenate([np.zeros(1000, np.float32), _array([15.0])]))
    assert expected_error(sparse, Range(0, 15), kind) == 0
    assert expected_error(Histogram.of(_array([-3.0] * 9)), Range(-3, -3), kind) == pytest.approx(0, abs=1e-9)


def test_percentile_cuts_the_same_share_at_both_ends() -> None:
    bounds = choose_range(Histogram.of(BELL), "percentile", QuantisedType(8), percentile=99.0)
    assert (bounds.low, bounds.high) == pytest.approx(tuple(np.percentile(BELL, [0.5, 99.5])), abs=0.01)
    everything = choose_range(Histogram.of(BELL), "percentile", QuantisedType(8), percentile=100.0)
    assert everything == Range(float(BELL.min()), float(BELL.max()))


def _divergence(x: Floats, high: float, levels: int, bins: int) -> float:
    """KL of clipped and joined bins as in Migacz' slides, written bin by bin."""
    size = round(bins * high / float(np.abs(x).max()))
    p, _ = np.histogram(np.abs(x), bins=bins, range=(0, float(np.abs(x).max())))
    inside, p = p[:size].astype(float), p[:size].astype(float)
    p[-1] += x.size - inside.sum()
    q = np.zeros(size)
    for group in np.array_split(np.arange(size), levels):
        filled = group[p[group] > 0]
        q[filled] = inside[group].sum() / max(len(filled), 1)
    q[p > 0] = np.maximum(q[p > 0], 1e-4)
    p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
    return float((p * np.log(p / q)).sum())


def test_entropy_loses_as_little_as_any_clipping() -> None:
    x = np.random.default_rng(2).laplace(size=100_000).astype(np.float32)
    high = choose_range(Histogram.of(x), "entropy", QuantisedType(8, signed=True, symmetric=True)).high
    others = [_divergence(x, float(np.abs(x).max()) * share, 128, 2048) for share in np.linspace(0.1, 1, 19)]
    assert _divergence(x, high, 128, 2048) <= min(others) * 1.05
    assert 0.3 < high / np.abs(x).max() < 1


def test_entropy_keeps_more_of_a_tensor_with_more_codes() -> None:
    highs = [choose_range(Histogram.of(np.abs(TAILS)), "entropy", QuantisedType(bits)).high for bits in (4, 6, 8, 16)]
    assert highs == sorted(highs)
    assert highs[-1] == np.abs(TAILS).max()


@pytest.mark.parametrize("method", ACTIVATION_RANGES)
def test_what_relu_or_clip_cuts_off_does_not_count(method: ActivationRanges) -> None:
    kind, limit = QuantisedType(8), (0.0, 1.5)
    before = choose_range(Histogram.of(BELL), method, kind, limit=limit)
    after = choose_range(Histogram.of(np.clip(BELL, *limit)), method, kind)
    assert (before.low, before.high) == pytest.approx((after.low, after.high), rel=0.05, abs=1e-6)
    assert quantiser(Range(-3, 3), kind, limit) == quantiser(Range(0, 1.5), kind)


def test_tensor_without_values_or_only_zeros_has_scale_one() -> None:
    for x in (np.empty(0), np.zeros(5), np.full(5, 1e-45)):
        for method in ACTIVATION_RANGES:
            for kind in (QuantisedType(8), QuantisedType(8, True), QuantisedType(8, True, True)):
                assert quantiser(choose_range(Histogram.of(x), method, kind), kind).scale == 1


def test_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match=r"no range method 'max'\. Choose one of: minmax, percentile, mse, entropy"):
        choose_range(Histogram.of(BELL), "max", QuantisedType(8))  # type: ignore[arg-type]


def test_odd_widths_use_their_own_codes_in_the_next_container() -> None:
    assert [container_bits(bits) for bits in (2, 3, 4, 5, 8, 9, 16)] == [2, 4, 4, 8, 8, 16, 16]
    assert QuantisedType(3).codes == (0, 7)
    assert QuantisedType(5, signed=True).codes == (-16, 15)


CONTAINERS = {
    (8, False): (onnx.TensorProto.UINT8, np.uint8),
    (8, True): (onnx.TensorProto.INT8, np.int8),
    (16, False): (onnx.TensorProto.UINT16, np.uint16),
    (16, True): (onnx.TensorProto.INT16, np.int16),
}


@pytest.mark.parametrize(("bits", "signed"), CONTAINERS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_onnxruntime_quantises_to_the_same_values(bits: int, signed: bool, symmetric: bool) -> None:
    kind = QuantisedType(bits, signed, symmetric)
    affine = quantiser(choose_range(Histogram.of(TAILS), "mse", kind), kind)
    onnx_type, numpy_type = CONTAINERS[bits, signed]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [
                onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
            ],
            "qdq",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])],
            [
                onnx.numpy_helper.from_array(np.array(affine.scale), "s"),
                onnx.numpy_helper.from_array(np.array(affine.zero_point, numpy_type), "z"),
            ],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    assert model.graph.initializer[1].data_type == onnx_type
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": TAILS})[0]
    np.testing.assert_allclose(np.asarray(y), _quantised(TAILS, affine), rtol=1e-6)
