"""Images: a folder of pictures as samples, prepared the way the model was trained.

    pixels, 0 to 255  ->  resized, its middle cropped  ->  (pixels × scale - mean) ÷ std  ->  one batch of one

Resizing and cropping give the same pixels as torchvision's ``Resize`` and ``CenterCrop`` on a Pillow image. Files are
taken in the order of their paths and read one at a time. Pillow is imported when the first of them is read.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from onnxmpq.disk.reading import brief, read_toml, refuse, shown, strangers
from onnxmpq.errors import InputError

Layout = Literal["NCHW", "NHWC"]
Resize = Literal["shorter-side", "stretch"]
Color = Literal["RGB", "BGR", "L"]
Resample = Literal["bilinear", "bicubic", "nearest"]
SPEC = "preprocess.toml"
SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_LONGEST_SIDE = 16384  # pixels of what a model takes
_LEAST_CROP = 0.05
_MOST_PIXELS = 200_000_000  # of a resized image, as Pillow takes at most of one in a file
_LARGEST = 1e300
CHANNELS: Mapping[str, int] = {"RGB": 3, "BGR": 3, "L": 1}


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a folder and the folders in it, as samples of a model with one input; iterating gives arrays.

    ``size`` is height and width of what the model takes. ``shorter-side`` keeps the shape of an image and crops its
    middle, ``stretch`` does not; ``crop`` is the share of the resized image that is kept (224 of 256 is 0.875).
    ``mean`` and ``std`` are one number or one per channel, in the order of ``color``, of pixels times ``scale``.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 30), (255, 0, 51)).save(f"{folder}/one.png")
    ...     for array in Images(folder, size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)):
    ...         print(array.shape, array[0, :, 0, 0].round(2).tolist())
    (1, 3, 8, 8) [1.0, -1.0, -0.6000000238418579]
    """

    folder: str | PathLike[str]
    size: tuple[int, int]
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Layout = "NCHW"
    scale: float = 1 / 255
    resize: Resize = "shorter-side"
    crop: float = 1.0
    color: Color = "RGB"
    resample: Resample = "bilinear"

    _WORDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "layout": get_args(Layout),
        "resize": get_args(Resize),
        "color": get_args(Color),
        "resample": get_args(Resample),
    }

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; all faults are one error."""
        for name in ("size", "mean", "std"):
            if isinstance(value := getattr(self, name), Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        if faults := list(self._faults()):
            raise InputError(f"The images of '{self.folder}' cannot be prepared: {'; '.join(faults)}.")

    @classmethod
    def described(cls, folder: Path) -> Self:
        """Read ``preprocess.toml`` in a folder: the fields by their names."""
        path = folder / SPEC
        given = read_toml(path, "description of images")
        known = [field.name for field in fields(cls) if field.name != "folder"]
        faults = [f"there is no '{brief(name)}'.{hint}" for name, hint in strangers(given, known)]
        faults += ["'size' is missing: height and width of what the model takes."] if "size" not in given else []
        refuse(faults, f"'{path}':", f" Known: {', '.join(known)}.")
        return cls(folder, **given)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image as the model takes it, without the batch."""
        height, width = self.size
        channels = CHANNELS[self.color]
        return (channels, height, width) if self.layout == "NCHW" else (height, width, channels)

    @property
    def files(self) -> tuple[Path, ...]:
        """All images, in the order of their paths; hidden files are none."""
        root = Path(self.folder)
        if not os.path.isdir(root):
            raise InputError(f"There is no folder of images '{root}'. Check the path.")
        found = found_in(root)
        if not found:
            raise InputError(f"Folder '{root}' holds no image ({', '.join(sorted(SUFFIXES))}).")
        return found

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Yield every image as the model takes it, in a batch of one."""
        return map(self.read, self.files)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, file: Path, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """Return one image as the model takes it, in a batch of one; raise InputError where that cannot be."""
        pixels = self._pixels(file)[..., :: -1 if self.color == "BGR" else 1]
        values = (pixels * self.scale - np.asarray(self.mean)) / np.asarray(self.std)
        found: npt.NDArray[Any] = values.astype(dtype)
        if found.dtype.kind in "iu" and not np.array_equal(found, values):
            raise InputError(
                f"The model takes images as {found.dtype.name}, and '{file}' does not give whole numbers in its range. "
                "Set scale = 1, and mean and std as the model was trained."
            )
        return (found.transpose(2, 0, 1) if self.layout == "NCHW" else found)[None]

    def _pixels(self, file: Path) -> npt.NDArray[np.float64]:
        """Return pixels from 0 to 255, [height, width, channels], resized and cropped."""
        try:
            from PIL import Image
        except ImportError:
            raise InputError(
                "Reading images needs Pillow, which is not installed. Install it with: pip install 'onnxmpq[images]'"
            ) from None
        try:
            with Image.open(file) as opened:
                if opened.mode[0] in "IF":
                    raise ValueError(f"its pixels are of type '{opened.mode}', where 8 bits are expected")
                plain = opened.convert("RGBA") if "transparency" in opened.info else opened
                image = plain.convert("L" if self.color == "L" else "RGB")
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise InputError(
                f"Image '{file}' cannot be read: {str(error).rstrip('.')}. Replace it, or take it out of the folder."
            ) from error
        height, width = self._resized(image.height, image.width)
        if height * width > _MOST_PIXELS:
            raise InputError(
                f"Image '{file}' of {image.width} × {image.height} pixels would be resized to {width} × {height}, "
                "which is too large. Take it out of the folder, or correct 'size' and 'crop'."
            )
        image = image.resize((width, height), Image.Resampling[self.resample.upper()])
        top, left = round((height - self.size[0]) / 2), round((width - self.size[1]) / 2)
        image = image.crop((left, top, left + self.size[1], top + self.size[0]))
        return np.asarray(image, np.float64).reshape(*self.size, CHANNELS[self.color])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width before the crop; in whole numbers, so that no side is a pixel short."""
        high, wide = (round(side / self.crop) for side in self.size)
        if self.resize == "stretch":
            return high, wide
        if high * width >= wide * height:
            return high, max(wide, width * high // height)
        return max(high, height * wide // width), wide

    def _faults(self) -> Iterator[str]:
        """Yield what is wrong with the fields."""
        for name, known in self._WORDS.items():
            word = getattr(self, name)
            if word not in known:
                yield f"'{name}' is {shown(word)}, expected {' or '.join(known)}"
        if not (
            isinstance(self.size, tuple)
            and len(self.size) == 2
            and all(type(n) is int and 0 < n <= _LONGEST_SIDE for n in self.size)
        ):
            told = f"height and width as two whole numbers, up to {_LONGEST_SIDE}"
            yield f"'size' is {_listed(self.size)}, expected {told}"
        if not (_is_number(self.scale) and self.scale):
            yield f"'scale' is {shown(self.scale)}, expected a number other than 0"
        if not (_is_number(self.crop) and _LEAST_CROP <= self.crop <= 1):
            yield f"'crop' is {shown(self.crop)}, expected a share from {_LEAST_CROP} to 1"
        channels = CHANNELS.get(self.color, 3) if isinstance(self.color, str) else 3
        for name, least in (("mean", -math.inf), ("std", 0.0)):
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            if len(values) not in (1, channels) or not all(_is_number(one) and one > least for one in values):
                above = " above 0" if name == "std" else ""
                yield f"'{name}' is {_listed(value)}, expected one number{above} or {channels}, one for each channel"


def found_in(folder: Path) -> tuple[Path, ...]:
    """Return the images of a folder and the folders in it, in the order of their paths."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return tuple(sorted(path for path in found if not path.name.startswith(".")))


def example(shape: Sequence[int | str | None]) -> str:
    """Return a ``preprocess.toml`` for an input of this shape, batch included.

    >>> print(example(("n", 1, 28, 28)))
    size = [28, 28]  # height and width
    layout = "NCHW"
    color = "L"
    scale = 0.00392156862745098  # 1/255
    mean = 0.0
    std = 1.0
    resize = "shorter-side"  # or "stretch"
    crop = 1.0  # 0.875: resize to 256 and take the middle 224
    """
    plane = [size if isinstance(size, int) and size > 0 else None for size in shape[-3:]]
    last = len(plane) == 3 and plane[2] in (1, 3) and plane[0] not in (1, 3)
    channels, height, width = (plane[2], *plane[:2]) if last else plane if len(plane) == 3 else (3, None, None)
    grey = channels == 1
    mean, std = ("0.0", "1.0") if grey else ("[0.485, 0.456, 0.406]", "[0.229, 0.224, 0.225]")
    return "\n".join(
        (
            f"size = [{height or 224}, {width or 224}]  # height and width",
            f'layout = "{"NHWC" if last else "NCHW"}"',
            f'color = "{"L" if grey else "RGB"}"' + ("" if grey else '  # or "BGR"'),
            f"scale = {1 / 255!r}  # 1/255",
            f"mean = {mean}",
            f"std = {std}",
            'resize = "shorter-side"  # or "stretch"',
            "crop = 1.0  # 0.875: resize to 256 and take the middle 224",
        )
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST  # type: ignore[operator]


def _listed(value: object) -> str:
    """Write a value, or those of a short list, for a message."""
    if not isinstance(value, tuple) or len(value) > 4:
        return shown(value)
    return f"[{', '.join(map(shown, value))}]"
