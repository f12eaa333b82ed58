"""Big tensors stay in their file: what is read and written is the same as if they were not."""

import mmap
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmpq.errors import InputError
from onnxmpq.model import mapped
from onnxmpq.model.load import load
from onnxmpq.model.mapped import BIG, MappedTensor, let_go, load_mapped, read_mapped, without_big
from onnxmpq.model.portions import portions_of_file
from onnxmpq.model.save import save

SIZE = 256  # a square of float32 of that size is big, one of half the size is not
WEIGHTS: dict[str, np.ndarray] = {
    "big": np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE),
    "small": np.ones((SIZE // 2, SIZE // 2), np.float32),
    "wide": np.arange(SIZE * SIZE, dtype=np.float64).reshape(SIZE, SIZE),
}


def proto_of(weights: dict[str, np.ndarray] = WEIGHTS) -> onnx.ModelProto:
    """Make a model that has weights, with texts at them as exporters write them."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 17]> g (float[n, {SIZE}] x) => (float[n, {SIZE}] y) {{ y = Relu(x) }}'
    )
    for name, array in weights.items():
        tensor = onnx.numpy_helper.from_array(array, name)
        tensor.doc_string = f"of {name}"
        tensor.metadata_props.add(key="trained", value="yes")
        model.graph.initializer.append(tensor)
    return model


def written(folder: Path, proto: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def test_big_weights_are_mapped_and_small_ones_read(tmp_path: Path) -> None:
    source = load(written(tmp_path, proto_of()))
    tensors = {name: value.const_value for name, value in source.model.graph.initializers.items()}
    assert {name for name, tensor in tensors.items() if isinstance(tensor, MappedTensor)} == {"big", "wide"}
    for name, array in WEIGHTS.items():
        tensor = tensors[name]
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.numpy().flags.aligned
        assert (tensor.doc_string, tensor.metadata_props) == (f"of {name}", {"trained": "yes"})


def test_digest_and_size_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, proto_of())
    found = load(path)
    monkeypatch.setattr(mapped, "BIG", 1 << 40)
    whole = load(path)
    assert (found.sha256, found.size_bytes) == (whole.sha256, whole.size_bytes) == (whole.sha256, path.stat().st_size)


@pytest.mark.parametrize("rank", ["first", "last"])
def test_what_is_saved_is_what_serialising_the_whole_model_gives(tmp_path: Path, rank: str) -> None:
    proto = proto_of(WEIGHTS if rank == "first" else dict(reversed(WEIGHTS.items())))
    for tensor in proto.graph.initializer:
        del tensor.metadata_props[:]  # which onnx_ir writes twice
    path = written(tmp_path, proto)
    size = save(load(path).model, tmp_path / "copy.onnx")
    data = (tmp_path / "copy.onnx").read_bytes()
    assert data == ir.to_proto(ir.from_proto(proto)).SerializeToString()
    assert size == len(data)


def test_codes_of_few_bits_are_saved_as_they_are_packed(tmp_path: Path) -> None:
    model = ir.from_proto(proto_of({}))
    codes = np.random.default_rng(0).integers(-8, 8, (2 * SIZE, 2 * SIZE)).astype(ir.DataType.INT4.numpy())
    plain = ir.Tensor(codes, name="codes")
    packed = ir.PackedTensor(
        np.frombuffer(plain.tobytes(), np.uint8), ir.DataType.INT4, shape=plain.shape, name="codes"
    )
    sizes = set()
    for tensor in (plain, packed):
        value = ir.Value(
            name="codes", type=ir.TensorType(tensor.dtype), shape=ir.Shape(codes.shape), const_value=tensor
        )
        model.graph.initializers["codes"] = value
        save(model, tmp_path / "m.onnx", overwrite=True)
        assert packed.nbytes == BIG
        assert (tmp_path / "m.onnx").read_bytes() == ir.to_proto(model).SerializeToString()
        sizes.add((tmp_path / "m.onnx").stat().st_size)
    assert len(sizes) == 1


def test_a_model_is_written_over_the_file_that_it_is_read_from(tmp_path: Path) -> None:
    path = written(tmp_path, proto_of())
    save(load(path).model, path, overwrite=True)
    weight = load_mapped(path).graph.initializers["big"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), WEIGHTS["big"])


def test_pages_that_were_given_back_are_read_again(tmp_path: Path) -> None:
    tensor = load(written(tmp_path, proto_of())).model.graph.initializers["big"].const_value
    assert isinstance(tensor, MappedTensor)
    before = tensor.numpy().copy()
    let_go(tensor)
    np.testing.assert_array_equal(tensor.numpy(), before)


def test_pages_of_external_weights_and_of_arrays_in_files_are_given_back(tmp_path: Path) -> None:
    save(ir.from_proto(proto_of()), tmp_path / "m.onnx", largest_protobuf=0)
    np.save(tmp_path / "codes.npy", WEIGHTS["big"])
    external = load(tmp_path / "m.onnx").model.graph.initializers["big"].const_value
    codes = np.load(tmp_path / "codes.npy", mmap_mode="r")
    assert isinstance(external, ir.ExternalTensor)
    for array in (external.numpy(), codes):
        np.testing.assert_array_equal(array, WEIGHTS["big"])
    for kept in (external, codes, ir.Tensor(codes), ir.Tensor(np.ones(3)), None):
        let_go(kept)
    assert isinstance(external.raw, mmap.mmap)
    for array in (external.numpy(), codes):
        np.testing.assert_array_equal(array, WEIGHTS["big"])


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="what is in memory is read from /proc")
@pytest.mark.parametrize("external", [False, True])
def test_saving_leaves_no_page_of_the_weights_in_memory(tmp_path: Path, external: bool) -> None:
    path = tmp_path / "m.onnx"
    save(ir.from_proto(proto_of()), path, largest_protobuf=0 if external else 1 << 40)
    model = load(path).model
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value.numpy().sum()
    file = f"{path}.data" if external else str(path)
    assert resident_kb(file) >= 256
    save(model, tmp_path / "copy.onnx")
    assert resident_kb(file) < 64


def resident_kb(file: str) -> int:
    """Return how much of a mapped file is in this process's memory."""
    maps = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(encoding="utf-8"))
    return sum(int(found[1]) for entry in maps if file in entry and (found := re.search(r"Rss: +(\d+) kB", entry)))


def test_portions_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, proto_of())
    found = portions_of_file(path)
    monkeypatch.setattr(mapped, "BIG", 1 << 40)
    assert found == portions_of_file(path)


# ---- what is no usual file -------------------------------------------------------------------------------------------


def test_a_tensor_whose_bytes_do_not_make_it_is_refused_as_ever(tmp_path: Path) -> None:
    proto = proto_of()
    proto.graph.initializer[0].dims[0] += 1
    with pytest.raises(InputError, match=r"tensor 'big' has 262,144 bytes, its shape \[257, 256\] asks for 263,168"):
        load(written(tmp_path, proto))


@pytest.mark.parametrize("fault", ["twice", "unnamed", "string", "negative"])
def test_what_cannot_be_told_apart_stays_where_it_is(tmp_path: Path, fault: str) -> None:
    proto = proto_of()
    first = proto.graph.initializer[0]
    match fault:
        case "twice":
            proto.graph.initializer[2].name = "big"
        case "unnamed":
            first.name = ""
        case "string":
            first.data_type = onnx.TensorProto.STRING
        case _:
            first.dims[:] = [-SIZE, -SIZE]
    kept, tensors = read_mapped(written(tmp_path, proto))
    assert kept.graph.initializer[0].raw_data == first.raw_data
    assert "big" not in tensors


def test_bytes_given_twice_are_read_as_protobuf_reads_them(tmp_path: Path) -> None:
    data = proto_of().SerializeToString()
    merged = onnx.ModelProto()
    merged.ParseFromString(data * 2)  # graphs are merged: initialisers come twice
    bare, places = without_big(memoryview(data * 2))
    assert not places
    assert onnx.ModelProto.FromString(bytes(bare)) == merged


@pytest.mark.parametrize("end", [1, 1000, BIG, 2 * BIG + 77])
def test_a_file_that_is_cut_short_is_left_to_protobuf(tmp_path: Path, end: int) -> None:
    data = proto_of().SerializeToString()[:end]
    bare, places = without_big(memoryview(data))
    assert (bytes(bare), places) == (data, {})
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError):
        load(tmp_path / "m.onnx")


def test_noise_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(np.random.default_rng(0).bytes(3 * BIG))
    with pytest.raises(InputError, match="is not an ONNX model, or is cut short"):
        load(tmp_path / "m.onnx")
