"""Saving: all or nothing, and the model in memory stays as it is."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from onnxmpq.errors import InputError
from onnxmpq.model.load import load
from onnxmpq.model.save import save, size_of, skeleton
from tests.graphs import layer_chain, normal
from tests.lower.test_lower import lowered
from tests.passes.proof import add_weight, parse

WEIGHT = np.arange(1200, dtype=np.float32).reshape(30, 40)


def matmul(weight: NDArray[np.float32] = WEIGHT) -> ir.Model:
    model = parse("g (float[2,30] x) => (float[2,40] y) { a = MatMul(x, w) y = Add(a, b) }")
    first, second = model.graph
    for node, name, array in ((first, "w", weight), (second, "b", weight[0])):
        add_weight(node, 1, name, ir.tensor(array))
    return model


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_file_and_its_size(tmp_path: Path) -> None:
    size = save(matmul(), tmp_path / "m.onnx")
    assert {name: len(data) for name, data in files(tmp_path).items()} == {"m.onnx": size}
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)


@pytest.mark.parametrize("largest_protobuf", [10, 4000, 1 << 30])
def test_the_size_is_known_without_a_file(tmp_path: Path, largest_protobuf: int) -> None:
    models = [matmul(), matmul(np.ones((30, 40), np.float32))]
    save(matmul(np.zeros((300, 400), np.float32)), tmp_path / "big.onnx", largest_protobuf=10)
    models += [load(tmp_path / "big.onnx").model, normal(layer_chain("Conv"))]
    models.append(lowered(models[-1], "w4a8").model)
    for number, model in enumerate(models):
        name = f"m{number}.onnx"
        before = files(tmp_path)
        size = size_of(model, name, largest_protobuf=largest_protobuf)
        assert files(tmp_path) == before
        assert size == save(model, tmp_path / name, largest_protobuf=largest_protobuf)


def test_external_data_beside_it_when_protobuf_cannot_hold_it(tmp_path: Path) -> None:
    size = save(matmul(), tmp_path / "m.onnx", largest_protobuf=4000)
    found = files(tmp_path)
    assert sorted(found) == ["m.onnx", "m.onnx.data"]
    assert sum(map(len, found.values())) == size
    assert found["m.onnx.data"] == WEIGHT.tobytes()
    assert ort.InferenceSession(tmp_path / "m.onnx").run(None, {"x": np.ones((2, 30), np.float32)})
    weight = load(tmp_path / "m.onnx").model.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_a_tensor_used_under_two_names_is_written_once(tmp_path: Path) -> None:
    model = matmul()
    tensor = model.graph.initializers["w"].const_value
    model.graph.register_initializer(
        ir.Value(name="v", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([30, 40]), const_value=tensor)
    )
    save(model, tmp_path / "m.onnx", largest_protobuf=10)
    assert (tmp_path / "m.onnx.data").stat().st_size == WEIGHT.nbytes
    assert [t.name for t in onnx.load(tmp_path / "m.onnx").graph.initializer] == ["w", "b", "v"]


def test_weights_of_bodies_go_out_too(tmp_path: Path) -> None:
    model = parse(
        """g (bool c, float[300] x) => (float[300] y) {
            y = If (c) <then_branch = t () => (float[300] a) { a = Add(x, x) },
                        else_branch = e () => (float[300] b) { b = Neg(x) }>
        }"""
    )
    body = next(iter(model.graph)).attributes["then_branch"].as_graph()
    add_weight(next(iter(body)), 1, "w", ir.tensor(np.ones(300, np.float32)))
    save(model, tmp_path / "m.onnx", largest_protobuf=10)
    assert (tmp_path / "m.onnx.data").stat().st_size == 1200
    session = ort.InferenceSession(tmp_path / "m.onnx")
    (y,) = session.run(None, {"c": np.array(True), "x": np.ones(300, np.float32)})
    np.testing.assert_array_equal(np.asarray(y), 2)


def test_the_model_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    model = matmul()
    tensors = [value.const_value for value in model.graph.initializers.values()]
    before = str(ir.to_proto(model))
    save(model, tmp_path / "m.onnx", largest_protobuf=10)
    assert all(a is b for a, b in zip(tensors, (v.const_value for v in model.graph.initializers.values()), strict=True))
    assert str(ir.to_proto(model)) == before


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match=r"'.*m\.onnx' exists already.*--overwrite"):
        save(matmul(), path)
    assert files(tmp_path) == {"m.onnx": b"precious"}
    save(matmul(), path, overwrite=True)
    load(path)


def test_existing_external_data_is_kept_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "m.onnx.data").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"m\.onnx\.data' exists already"):
        save(matmul(), tmp_path / "m.onnx", largest_protobuf=10)
    assert files(tmp_path) == {"m.onnx.data": b"precious"}
    save(matmul(), tmp_path / "m.onnx")  # a small model does not touch it


def test_a_model_can_be_saved_over_the_files_it_lives_in(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(matmul(), path, largest_protobuf=10)
    model = load(path).model
    model.graph.initializers["b"].const_value = ir.tensor(np.zeros(40, np.float32))
    save(model, path, overwrite=True, largest_protobuf=10)
    save(matmul(WEIGHT + 1), path, overwrite=True, largest_protobuf=10)
    weight = model.graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), WEIGHT)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "m.onnx").symlink_to(tmp_path / "real" / "r.onnx")
    save(matmul(), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").is_symlink()
    load(tmp_path / "real" / "r.onnx")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no folder '.*none' to write 'm.onnx' to"):
        save(matmul(), tmp_path / "none" / "m.onnx")


def test_a_folder_as_destination(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        save(matmul(), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission denied"):
        save(matmul(), tmp_path / "m.onnx")


def _fails(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("largest_protobuf", [10, 1 << 30])
@pytest.mark.parametrize("place", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "told"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EIO, "another place")],
)
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int, told: str, largest_protobuf: int
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"precious")
    monkeypatch.setattr(f"onnxmpq.model.save.os.{place}", _fails(OSError(number, os.strerror(number))))
    with pytest.raises(InputError, match=rf"m\.onnx' cannot be written: .*{told}"):
        save(matmul(), tmp_path / "m.onnx", overwrite=True, largest_protobuf=largest_protobuf)
    assert files(tmp_path) == {"m.onnx": b"precious"}


@pytest.mark.parametrize("largest_protobuf", [10, 1 << 30])
def test_an_interrupt_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest_protobuf: int
) -> None:
    monkeypatch.setattr("onnxmpq.model.save.os.fsync", _fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save(matmul(), tmp_path / "m.onnx", largest_protobuf=largest_protobuf)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("before", [{}, {"m.onnx": b"precious", "m.onnx.data": b"too"}])
def test_a_failure_between_the_two_files_takes_back_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, bytes]
) -> None:
    real, calls = os.replace, list[Path]()
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)

    def second_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        real(source, target)

    monkeypatch.setattr("onnxmpq.model.save.os.replace", second_fails)
    with pytest.raises(InputError):
        save(matmul(), tmp_path / "m.onnx", overwrite=bool(before), largest_protobuf=10)
    assert files(tmp_path) == before


def test_four_bit_weights_survive_external_files(tmp_path: Path) -> None:
    codes = (np.arange(3000) % 16 - 8).astype(np.int8).astype(ir.DataType.INT4.numpy())
    model = parse("g (float[3000] x) => (float[3000] y) { d = DequantizeLinear(q, s) y = Mul(x, d) }", 21, 10)
    node = next(iter(model.graph))
    add_weight(node, 0, "q", ir.tensor(codes, ir.DataType.INT4))
    add_weight(node, 1, "s", ir.tensor(np.array(0.5, np.float32)))
    save(model, tmp_path / "m.onnx", largest_protobuf=10)
    assert (tmp_path / "m.onnx.data").stat().st_size == 1500
    again = load(tmp_path / "m.onnx").model
    save(again, tmp_path / "n.onnx")
    weight = load(tmp_path / "n.onnx").model.graph.initializers["q"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy().astype(np.int8), codes.astype(np.int8))


def test_a_skeleton_has_types_and_shapes_but_no_bytes() -> None:
    proto = skeleton(matmul())
    assert proto.ByteSize() < 1000
    assert [list(tensor.dims) for tensor in proto.graph.initializer] == [[30, 40], [40]]
    onnx.shape_inference.infer_shapes(proto, strict_mode=True)
