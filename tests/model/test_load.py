"""Loading: what is a model, what is none, and what is said about it."""

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxmpq.errors import InputError
from onnxmpq.model.load import load
from onnxmpq.model.save import save
from tests.passes.proof import run

TEXT = '<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, w) }'


def matmul() -> onnx.ModelProto:
    """Multiply by twelve weights."""
    proto = onnx.parser.parse_model(TEXT)
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


def write(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def external(folder: Path, location: str = "w.bin", length: int | None = 48, offset: int = 0) -> Path:
    """Write the model with its weight in an external file, which is not written."""
    proto = matmul()
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset)} | ({} if length is None else {"length": str(length)})
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return write(folder, proto)


def refused(path: Path | onnx.ModelProto | ir.Model, *told: str) -> None:
    """Expect one sentence or two that say all of ``told``."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in told:
        assert part in message


def test_a_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, matmul())
    source = load(path)
    data = path.read_bytes()
    assert (source.path, source.opset, source.size_bytes) == (path, 17, len(data))
    assert source.sha256 == hashlib.sha256(data).hexdigest()
    assert load(str(path)).sha256 == source.sha256


def test_a_model_in_memory_is_taken_as_it_is() -> None:
    proto = matmul()
    model = ir.from_proto(proto)
    assert load(model).model is model
    assert load(model).path is None
    assert load(proto).sha256 == hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def test_the_digest_of_a_model_in_memory_depends_on_every_weight() -> None:
    one, other = ir.from_proto(matmul()), ir.from_proto(matmul())
    assert load(one).sha256 == load(other).sha256
    other.graph.initializers["w"].const_value = ir.tensor(np.ones((3, 4), np.float32))
    assert load(one).sha256 != load(other).sha256


def test_external_weights_are_mapped_and_part_of_the_digest(tmp_path: Path) -> None:
    path = external(tmp_path, offset=16)
    weight = np.arange(12, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(b"\0" * 16 + weight.tobytes())
    source = load(path)
    assert source.size_bytes == path.stat().st_size + 64
    tensor = source.model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None  # nothing read yet
    np.testing.assert_array_equal(tensor.numpy().reshape(-1), weight)
    (tmp_path / "w.bin").write_bytes(b"\1" * 16 + weight.tobytes())
    assert load(path).sha256 != source.sha256


def test_a_relative_path_finds_external_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    external(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"\0" * 48)
    monkeypatch.chdir(tmp_path)
    tensor = load("m.onnx").model.graph.initializers["w"].const_value
    assert tensor is not None
    assert not tensor.numpy().any()


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "There is no file", "none.onnx", "check the path")


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder", "name the .onnx file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, matmul())
    path.chmod(0)
    refused(path, "cannot be read", "permissions")


@pytest.mark.parametrize("data", [b"", b"hello, world", b"PK\x03\x04" + bytes(200), bytes(1000), b"\x08\x08"])
def test_what_is_no_model(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    refused(path, "not an ONNX model")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = matmul().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        refused(path, "m.onnx")


def test_a_tensor_of_the_wrong_length(tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.initializer[0].raw_data = bytes(44)
    refused(write(tmp_path, proto), "'w' has 44 bytes", "[3, 4] asks for 48")


def test_typed_data_of_the_wrong_length(tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].float_data.extend([1.0] * 11)
    refused(write(tmp_path, proto), "'w' has 11 values", "asks for 12")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.FLOAT, 6),
        (TensorProto.FLOAT16, 6),
        (TensorProto.BOOL, 6),
        (TensorProto.INT4, 6),
        (TensorProto.UINT2, 6),
        (TensorProto.FLOAT8E4M3FN, 6),
        (TensorProto.BFLOAT16, 6),
        (TensorProto.COMPLEX64, 6),
        (TensorProto.UINT64, 6),
        (TensorProto.DOUBLE, 6),
        (TensorProto.INT4, 5),
        (TensorProto.FLOAT, 0),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_every_way_to_store_a_tensor_is_accepted(kind: int, values: int, raw: bool) -> None:
    proto = matmul()
    tensor = helper.make_tensor("c", kind, [values], [1] * values)
    proto.graph.initializer.append(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), "c") if raw else tensor
    )
    load(proto)


def test_an_empty_graph(tmp_path: Path) -> None:
    proto = matmul()
    del proto.graph.node[:]
    refused(write(tmp_path, proto), "empty graph")


@pytest.mark.parametrize("opset", [1, 6])
def test_an_opset_that_is_too_old(tmp_path: Path, opset: int) -> None:
    proto = matmul()
    proto.opset_import[0].version = opset
    refused(write(tmp_path, proto), f"opset {opset}.", "7 or later", "onnx.version_converter")


def test_an_opset_newer_than_onnxruntime_is_loaded() -> None:
    proto = matmul()
    proto.opset_import[0].version = 28
    assert load(proto).opset == 28


def test_no_opset_of_the_onnx_domain_is_needed_without_its_operators() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["ai.onnx.ml": 2]> g (float[2] x) => (float[2] y) { y = ai.onnx.ml.Scaler(x) }'
    )
    assert load(proto).opset == 0
    proto.graph.node[0].domain = ""
    refused(proto, "opset of an unknown version")


def test_a_value_that_nothing_produces() -> None:
    proto = matmul()
    del proto.graph.initializer[:]
    refused(proto, "reads 'w', which nothing produces")


def test_an_output_that_nothing_produces() -> None:
    proto = matmul()
    proto.graph.output[0].name = "z"
    refused(proto, "nothing produces its output 'z'")


def test_nodes_out_of_order_are_sorted() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { a = Exp(x) y = Neg(a) }'
    )
    nodes = [proto.graph.node[1], proto.graph.node[0]]
    twisted = onnx.ModelProto.FromString(proto.SerializeToString())
    del twisted.graph.node[:]
    twisted.graph.node.extend(nodes)
    model = load(twisted).model
    assert [node.op_type for node in model.graph] == ["Exp", "Neg"]
    run(model)


def test_a_cycle_is_refused() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { a = Add(x, y) y = Neg(a) }'
    )
    refused(proto, "cycle")


def test_sparse_weights_are_refused() -> None:
    proto = matmul()
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    refused(proto, "sparse weight ('s')", "dense")


def test_missing_external_data(tmp_path: Path) -> None:
    refused(external(tmp_path), "'w.bin'", "no such file beside it")


@pytest.mark.parametrize(("length", "told"), [(48, "ends at byte 48"), (None, "ends at byte 48")])
def test_external_data_cut_short(tmp_path: Path, length: int | None, told: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(47))
    refused(external(tmp_path, length=length), "cut short", told, "the file at 47")


def test_external_data_of_the_wrong_length(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    refused(external(tmp_path, length=44), "gives 44 bytes", "asks for 48")


@pytest.mark.parametrize("location", ["/etc/hostname", "../w.bin", "a/../../w.bin", "", "..\\w.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(48))
    refused(external(folder, location), "outside its own folder", "refused")


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(48))
    (folder / "w.bin").symlink_to(tmp_path / "w.bin")
    refused(external(folder), "a link to", "outside its own folder")


def test_a_folder_that_is_a_link_out(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.bin").write_bytes(bytes(48))
    (folder / "sub").symlink_to(tmp_path / "out")
    refused(external(folder, "sub/w.bin"), "a link to", "outside its own folder")


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(bytes(48))
    (tmp_path / "w.bin").symlink_to(tmp_path / "real.bin")
    load(external(tmp_path))


def test_a_hard_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(bytes(48))
    os.link(tmp_path / "other.bin", tmp_path / "w.bin")
    refused(external(tmp_path), "hard link", "Copy the file")


def test_a_folder_as_external_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").mkdir()
    refused(external(tmp_path), "not a plain file")


def test_external_data_of_a_model_in_memory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(48))
    proto = onnx.load(str(external(tmp_path)), load_external_data=False)
    refused(proto, "'w'", "Load it by its path")


def test_garbage_in_the_middle_never_escapes_as_another_error(tmp_path: Path) -> None:
    data = bytearray(matmul().SerializeToString())
    random = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    refusals = 0
    for _ in range(300):
        broken = bytearray(data)
        for place in random.integers(0, len(data), 3):
            broken[place] = random.integers(0, 256)
        path.write_bytes(bytes(broken))
        try:
            load(path)
        except InputError:
            refusals += 1
    assert refusals > 100


def test_a_weight_saved_to_an_external_file_is_read_back(tmp_path: Path) -> None:
    feeds, expected = run(ir.from_proto(matmul()))
    save(ir.from_proto(matmul()), tmp_path / "big.onnx", largest_protobuf=10)
    model = load(tmp_path / "big.onnx").model
    save(model, tmp_path / "small.onnx")
    np.testing.assert_array_equal(run(load(tmp_path / "small.onnx").model, feeds)[1][0], expected[0])
