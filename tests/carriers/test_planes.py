"""Codes of any width in just their bits: put together again they are what they were, in our hands and a runtime's."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.api import quantize
from onnxmpq.artifacts import Option
from onnxmpq.carriers.planes import lanes_of, pack, planes
from onnxmpq.model.folded import folded
from onnxmpq.model.layers import all_graphs
from onnxmpq.model.portions import portions_of_file
from onnxmpq.options import Numbers, VerifyOptions
from onnxmpq.runtimes import get_runtime
from onnxmpq.verification.processors import find_layers
from tests.graphs import Array, feeds_for, from_text, layer_chain, rng

WIDTHS = (7, 6, 5, 3)
QUICK = VerifyOptions(speed_budget_s=0.0, allow_slower=True, as_asked=True)
ODD = (3, 5, 1, 3)
"""The shape of a weight whose 45 codes fill no whole bytes."""


def odd_model() -> ir.Model:
    """Return a model with two convolutions of few codes, which another one shares."""
    g = rng(1)
    weights = {"w1": g.normal(size=ODD), "w2": g.normal(size=(5, 3, 1, 3))}
    body = "a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) d = Relu(c) y = Conv(d, w1)"
    text = f"g (float[n, 5, 6, 20] x) => (float[n, 3, 6, 14] y) {{ {body} }}"
    return from_text(text, {name: array.astype(np.float32) for name, array in weights.items()})


def written(model: ir.Model, option: str, path: Path) -> ir.Model:
    """Return the file of a model at an option, which is checked on its way."""
    quantize(ir.to_proto(model), feeds_for(model), output=path, plan=option, numbers=Numbers(), verify=QUICK)
    return ir.load(path)


def codes_of(model: ir.Model) -> list[tuple[ir.Value, Array]]:
    """Return what puts codes together, and what comes of it."""
    found = []
    for node in model.graph:
        if node.op_type == "Cast" and (producer := (node.inputs[0] or node.outputs[0]).producer()) is not None:
            codes = folded(node.outputs[0]) if producer.op_type == "Sub" else None
            if codes is not None:
                found.append((node.outputs[0], codes))
    return found


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("count", [1, 7, 8, 45, 4096])
def test_planes_hold_every_code_in_just_its_bits(bits: int, count: int) -> None:
    codes = np.resize(np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.int8), count)
    held = {place: pack(codes, bits, width, place) for width, place in planes(bits)}
    assert sum(plane.nbytes for plane in held.values()) == bits * -(-count // 8)
    assert sum(width for width, _ in planes(bits)) == bits
    together = np.zeros(8 * -(-count // 8), np.int16)
    for width, place in planes(bits):
        lanes = (held[place] >> lanes_of(width)) & ((1 << width) - 1)
        together |= lanes.reshape(-1).astype(np.int16) << place
    np.testing.assert_array_equal(together[:count] - (1 << (bits - 1)), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_runtime_puts_together_what_was_stored(bits: int, tmp_path: Path) -> None:
    for name, model in (("odd", odd_model()), ("whole", layer_chain("Conv"))):
        container = 4 if bits == 3 else 8
        plain = written(model, f"w{bits}", tmp_path / f"{name}.onnx")
        found = codes_of(plain)
        assert len(found) == 2
        proto = onnx.load(tmp_path / f"{name}.onnx")
        proto.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value, _ in found)
        session = get_runtime("onnxruntime").session(proto.SerializeToString(), mode="unoptimised")
        outputs = session.run(feeds_for(model)[0])
        for value, codes in found:
            assert codes.dtype == np.int8
            np.testing.assert_array_equal(outputs[value.name or ""], codes)
            assert np.abs(codes).max() <= 1 << (bits - 1)
            assert len(np.unique(codes)) > bits
        stored = sum(array.size for _, array in found)
        tensors = [value for graph in all_graphs(plain) for value in graph.initializers.values()]
        planed = sum(v.const_value.nbytes for v in tensors if v.const_value is not None and "_plane" in (v.name or ""))
        assert planed == sum(bits * -(-array.size // 8) for _, array in found) < stored * container / 8


@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_are_those_of_the_same_width_in_whole_bytes(bits: int, tmp_path: Path) -> None:
    model = layer_chain("Conv")
    ours = written(model, f"w{bits}", tmp_path / "planes.onnx")
    with (tmp_path / "plain.toml").open("w") as file:
        file.write('schema = 2\nname = "plain"\nextends = "ort-cpu"\n[[layers]]\nop = "Conv"\noptions = ["w8-2"]\n')
        file.write('weight_only = { 8 = "castmul", 4 = "castmul", 2 = "castmul" }\n')
    given = {"output": tmp_path / "plain.onnx", "target": str(tmp_path / "plain.toml")}
    quantize(ir.to_proto(model), feeds_for(model), **given, plan=f"w{bits}", numbers=Numbers(), verify=QUICK)  # type: ignore[arg-type]
    theirs = ir.load(tmp_path / "plain.onnx")
    for number, (_, codes) in enumerate(codes_of(ours), 1):
        held = theirs.graph.initializers[f"w{number}_quantized"].const_value
        assert held is not None
        np.testing.assert_array_equal(codes, np.asarray(held.numpy()).astype(np.int8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_kernels_are_those_of_8_bits_and_their_codes_are_seen(bits: int, tmp_path: Path) -> None:
    model = layer_chain("Conv")
    result = quantize(
        ir.to_proto(model),
        feeds_for(model),
        output=tmp_path / "q.onnx",
        plan=f"w{bits}a8",
        numbers=Numbers(),
        verify=QUICK,
    )
    assert set(result.plan.choices.values()) == {Option(bits, 8)}
    assert result.verdict["kernels"].ok
    assert "2 integer layers" in result.verdict["kernels"].expected
    assert result.verdict["processors"].ok
    layers = list(find_layers(ir.load(tmp_path / "q.onnx")))
    assert len(layers) == 2
    for layer in layers:
        assert layer.codes is not None
        assert 1 << (bits - 2) < np.abs(layer.codes.astype(int)).max() <= 1 << (bits - 1)


@pytest.mark.parametrize("option", ["w6a8", "w3", "w5"])
def test_planes_are_weights_among_the_portions_of_a_file(option: str, tmp_path: Path) -> None:
    written(layer_chain("Conv"), option, tmp_path / "q.onnx")
    found = portions_of_file(tmp_path / "q.onnx")
    bits = Option.parse(option).weight_bits
    assert found.weights == 2 * bits * 2304 // 8
    assert found.total == (tmp_path / "q.onnx").stat().st_size
