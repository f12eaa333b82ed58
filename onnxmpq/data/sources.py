"""What a user gives as calibration data, told apart and read: rows of blocks, each from one file or one feed.

Accepted are a ``.npz`` keyed by input name, a ``.npy`` (models with one input), a folder of them, a folder of images
with ``preprocess.toml`` in it, ``Images``, a dict of arrays, feeds from any iterable, and a reader with
``get_next()`` such as onnxruntime's ``CalibrationDataReader``.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from onnxmpq.data.images import SPEC, Images, example, found_in
from onnxmpq.errors import InputError

Array: TypeAlias = npt.NDArray[Any]
Feed: TypeAlias = dict[str, Array]


@runtime_checkable
class Reader(Protocol):
    """What onnxruntime calls a CalibrationDataReader; read again where it has ``rewind()``, else kept in memory."""

    def get_next(self) -> Mapping[str, Any] | None:
        """Give the next feed, or None at the end."""
        ...


Data: TypeAlias = str | PathLike[str] | Images | Array | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Reader


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model; a dimension is a number, a symbol, or None where nothing is known of it."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    @property
    def batch(self) -> int | str | None:
        """The first dimension; a negative one, as old exporters write, is free."""
        first = self.shape[0] if self.shape else None
        return None if isinstance(first, int) and first < 0 else first

    @property
    def dimensions(self) -> str:
        """Write the shape for people; what is not known of it is a question mark."""
        return f"({', '.join('?' if dim is None else str(dim) for dim in self.shape)})"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether an array of this shape can be fed."""
        return len(shape) == len(self.shape) and all(
            want == got for want, got in zip(self.shape, shape, strict=True) if isinstance(want, int) and want >= 0
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Arrays that came together, ``where`` from, and the names that stood beside them without being read."""

    where: str
    arrays: Mapping[str, Array]
    beside: tuple[str, ...] = ()


def source(data: Data, inputs: tuple[InputSpec, ...], labels: str) -> Callable[[], Iterator[Block]]:
    """Find out what was given, and how to read it again and again."""
    if isinstance(data, str | PathLike) and os.path.isfile(Path(data) / SPEC):
        data = Images.described(Path(data))
    if isinstance(data, Images):
        return _prepared(data, inputs)
    if isinstance(data, str | PathLike):
        if pictures := _undescribed(Path(data)):
            raise _no_spec(pictures, inputs)
        files = _files(Path(data))
        return lambda: (_read(file, inputs, labels) for file in files)
    if isinstance(data, np.ndarray):
        alone = Block("The array", {_only(inputs, "An array"): data})
        return lambda: iter((alone,))
    if isinstance(data, Mapping):
        together = _block("The dict of arrays", cast(Mapping[str, Any], data))
        return lambda: iter((together,))
    if isinstance(data, Reader):
        return _feeds(_Again(data) if hasattr(data, "rewind") else list(iter(data.get_next, None)))
    if isinstance(data, Iterable):
        return _feeds(list(data) if iter(data) is data else data)
    raise InputError(
        f"Calibration data of type '{type(data).__name__}' cannot be read. "
        "Give a .npz, a .npy, a folder of them, images, a dict of arrays, feeds, or a reader with get_next()."
    )


def _prepared(images: Images, inputs: tuple[InputSpec, ...]) -> Callable[[], Iterator[Block]]:
    """Serve images one at a time, in the type of the only input."""
    where = f"The images of '{images.folder}'"
    if len(inputs) != 1:
        raise InputError(
            f"{where} feed one input, and the model has {len(inputs)}: {listed(spec.name for spec in inputs)}. "
            "Save samples with numpy.savez, one array for each input."
        )
    spec, files = inputs[0], images.files
    batch = spec.batch if isinstance(spec.batch, int) else 1
    if not (spec.fits((batch, *images.shape)) or spec.fits(images.shape)):
        raise InputError(
            f"{where} are prepared as {images.shape}, and input '{spec.name}' expects {spec.dimensions}. "
            f"Correct size, layout or color; for this input:\n{example(spec.shape)}"
        )
    return lambda: (Block(f"Image '{file}'", {spec.name: images.read(file, spec.dtype)}) for file in files)


def _undescribed(path: Path) -> tuple[Path, ...]:
    """Return the images of a folder that has no arrays."""
    return found_in(path) if os.path.isdir(path) and not _arrays_in(path) else ()


def _no_spec(pictures: tuple[Path, ...], inputs: tuple[InputSpec, ...]) -> InputError:
    """Make the error for images of which nobody says how the model takes them."""
    spec = next((spec for spec in inputs if len(spec.shape) in (3, 4)), inputs[0])
    return InputError(
        f"'{pictures[0]}' is one of {len(pictures)} images, and there is no '{SPEC}' to say how they become input "
        f"'{spec.name}' {spec.dimensions}. Write it into the folder that was given, the way the model was trained, "
        f"for example:\n{example(spec.shape)}"
    )


def _feeds(feeds: Iterable[Mapping[str, Any] | None]) -> Callable[[], Iterator[Block]]:
    return lambda: (_block(f"Feed {k}", feed) for k, feed in enumerate(feeds))


@dataclass(frozen=True, slots=True)
class _Again:
    """A reader that goes back to its start whenever it is iterated."""

    reader: Any

    def __iter__(self) -> Iterator[Mapping[str, Any] | None]:
        self.reader.rewind()
        return iter(self.reader.get_next, None)


def _block(where: str, feed: Mapping[str, Any] | None) -> Block:
    """Take a feed that a program made."""
    if not isinstance(feed, Mapping):
        raise InputError(f"{where} is a '{type(feed).__name__}'. Expected a dict from input names to arrays.")
    try:
        return Block(where, {name: np.asarray(value) for name, value in feed.items()})
    except ValueError as error:
        raise InputError(f"{where} cannot be made into arrays: {error}.") from error


def _files(path: Path) -> tuple[Path, ...]:
    """List the files that a path stands for, in the order of their names."""
    if os.path.isdir(path):
        files = _arrays_in(path)
        if not files:
            raise InputError(f"Folder '{path}' holds no .npz and no .npy. Save samples there with numpy.savez.")
        return files
    if not os.path.exists(path):  # which a name that no file can have is told by, too
        near = [file.name for file in path.parent.iterdir()] if os.path.isdir(path.parent) else []
        raise InputError(f"Calibration data '{path}' does not exist{nearest_name(path.name, near)}.")
    if not os.path.isfile(path):
        raise InputError(f"Calibration data '{path}' is no file but a device or a pipe. Save samples with numpy.savez.")
    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"Calibration data '{path}' is neither .npz nor .npy nor a folder. Save it with numpy.savez.")
    return (path,)


def _arrays_in(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.iterdir() if file.suffix in (".npz", ".npy") and file.is_file()))


def _read(file: Path, inputs: tuple[InputSpec, ...], labels: str) -> Block:
    """Read from one file what is needed; a .npy is only mapped."""
    where = f"'{file}'"
    with _readable(where):
        if file.suffix == ".npy":
            only = _only(inputs, where)
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                array.close()
                raise ValueError("it holds several arrays; call it .npz")
            return Block(where, {only: array})
        with file.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds one array; call it .npy")
            with archive:
                wanted = [name for name in archive.files if name == labels or any(name == spec.name for spec in inputs)]
                beside = tuple(name for name in archive.files if name not in wanted)
                return Block(where, {name: _member(archive, name) for name in wanted}, beside)


def _member(archive: Any, name: str) -> Array:
    """Read an array of an archive; what is none, or says that it is larger than it is, is told before room is made."""
    with archive.zip.open(name if name in archive.zip.namelist() else f"{name}.npy") as stream:
        if stream.peek(6)[:6] != b"\x93NUMPY":
            raise ValueError(f"'{name}' in it is no array")
        version = np.lib.format.read_magic(stream)
        if version in _HEADERS:
            shape, _, dtype = _HEADERS[version](stream)
            stored = archive.zip.getinfo(stream.name).file_size
            if (needed := math.prod(shape) * dtype.itemsize) > stored:
                raise ValueError(f"'{name}' in it says that it has {needed:,} bytes, of which {stored:,} are there")
    array: Array = archive[name]
    return array


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn whatever a parser raises on a file into one error that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and numpy raise a dozen types on files that are not what they say
        told = str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__
        raise InputError(f"{where} cannot be read: {told}. Save it again with numpy.savez or numpy.save.") from error


def _only(inputs: tuple[InputSpec, ...], where: str) -> str:
    """Name the only input; arrays without names cannot feed several."""
    if len(inputs) != 1:
        names = ", ".join(f"{spec.name}=..." for spec in inputs)
        raise InputError(
            f"{where} has no names, but the model has {len(inputs)} inputs. Use numpy.savez(path, {names})."
        )
    return inputs[0].name


def near_name(name: str, names: Iterable[str]) -> str:
    """Point at the name that was probably given in the place of this one."""
    near = get_close_matches(name, list(names), 1)
    return f" (is '{near[0]}' meant to be it?)" if near else ""


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Point at the name that was probably meant."""
    near = get_close_matches(name, list(names), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def listed(names: Iterable[str]) -> str:
    """Write names out, each in quotes."""
    return ", ".join(f"'{name}'" for name in names) or "nothing"
