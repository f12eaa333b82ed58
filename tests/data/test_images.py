"""Images: a folder of pictures gives the samples that a computation by hand gives, and every mistake is named."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.data.images import Images, example
from onnxmpq.data.samples import InputSpec, open_samples
from onnxmpq.errors import InputError
from onnxmpq.options import VerifyOptions

Image = pytest.importorskip("PIL.Image")
F32 = np.dtype(np.float32)
RGB = (InputSpec("pixels", F32, ("n", 3, 8, 8)),)
MODELS = Path(__file__).parents[2] / "models"
SPEC = """\
size = [8, 8]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""


def pixels(height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    """Draw an image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of three images, one of them in a folder of its own."""
    (tmp_path / "more").mkdir()
    for seed, name in enumerate(("b.png", "a.PNG", "more/c.png")):
        Image.fromarray(pixels(seed=seed)).save(tmp_path / name, format="png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._b.png").write_text("what a Mac leaves beside it")
    return tmp_path


def alone(tmp_path: Path, image: np.ndarray, **more: Any) -> np.ndarray:
    """Return one image as the model takes it."""
    Image.fromarray(image).save(tmp_path / "one.png")
    fields: dict[str, Any] = {"size": (8, 8)} | more
    return next(iter(Images(tmp_path, **fields)))


def test_a_png_through_the_spec_is_what_a_computation_by_hand_gives(folder: Path) -> None:
    (folder / "preprocess.toml").write_text(SPEC)
    feeds = list(open_samples(folder, RGB))
    assert [set(feed) for feed in feeds] == [{"pixels"}] * 3
    for feed, seed in zip(feeds, (1, 0, 2), strict=True):  # a, b, more/c
        wanted = (pixels(seed=seed) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert feed["pixels"].dtype == F32
        np.testing.assert_allclose(feed["pixels"], wanted.transpose(2, 0, 1)[None], rtol=1e-6, atol=1e-7)


def test_the_folder_and_images_from_python_are_the_same_samples(folder: Path) -> None:
    (folder / "preprocess.toml").write_text(SPEC)
    images = Images(folder, (8, 8), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert Images.described(folder) == images
    assert open_samples(images, RGB).sha256 == open_samples(folder, RGB).sha256
    assert len(images) == len(open_samples(images, RGB)) == 3


def test_layout_and_color_order_channels(tmp_path: Path) -> None:
    image = pixels()
    plain = alone(tmp_path, image, scale=1.0)
    assert plain.tolist() == image.transpose(2, 0, 1)[None].tolist()
    assert alone(tmp_path, image, scale=1.0, layout="NHWC").tolist() == image[None].tolist()
    assert alone(tmp_path, image, scale=1.0, color="BGR").tolist() == plain[:, ::-1].tolist()
    grey = alone(tmp_path, image, scale=1.0, color="L")
    assert grey.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(grey[0, 0], image @ [0.299, 0.587, 0.114], atol=0.51)


def test_mean_follows_the_order_of_the_color(tmp_path: Path) -> None:
    image = np.full((8, 8, 3), [10, 20, 30], np.uint8)
    found = alone(tmp_path, image, scale=1.0, color="BGR", mean=(30, 20, 10))
    assert not found.any()


@pytest.mark.parametrize(("height", "width"), [(16, 40), (40, 16), (17, 33), (8, 8), (3, 5)])
def test_shorter_side_is_resized_and_the_middle_is_kept(height: int, width: int, tmp_path: Path) -> None:
    image = pixels(height, width)
    short = min(height, width)
    resized = Image.fromarray(image).resize((8 * width // short, 8 * height // short), Image.Resampling.BILINEAR)
    top, left = round((resized.height - 8) / 2), round((resized.width - 8) / 2)
    wanted = np.asarray(resized)[top : top + 8, left : left + 8]
    assert alone(tmp_path, image, scale=1.0, layout="NHWC")[0].tolist() == wanted.tolist()


def test_crop_keeps_the_middle_share_of_a_larger_image(tmp_path: Path) -> None:
    image = pixels(10, 10)
    assert alone(tmp_path, image, scale=1.0, layout="NHWC", crop=0.8)[0].tolist() == image[1:9, 1:9].tolist()


def test_stretch_changes_the_shape_and_takes_a_size_that_is_no_square(tmp_path: Path) -> None:
    image = pixels(12, 40)
    wanted = np.asarray(Image.fromarray(image).resize((10, 6), Image.Resampling.BICUBIC))
    found = alone(tmp_path, image, size=(6, 10), scale=1.0, layout="NHWC", resize="stretch", resample="bicubic")
    assert found[0].tolist() == wanted.tolist()
    assert alone(tmp_path, image, size=(6, 10)).shape == (1, 3, 6, 10)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_8_bit_image_becomes_color(mode: str, tmp_path: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (8, 8), 1).save(tmp_path / f"one.{suffix}", **({"transparency": b"\0"} if mode == "P" else {}))
    assert next(iter(Images(tmp_path, (8, 8)))).shape == (1, 3, 8, 8)


def test_a_model_that_takes_bytes_gets_them_and_no_fractions(folder: Path) -> None:
    spec = (InputSpec("pixels", np.dtype(np.uint8), (1, 8, 8, 3)),)
    feed = next(iter(open_samples(Images(folder, (8, 8), scale=1, layout="NHWC"), spec)))
    assert (feed["pixels"].dtype, feed["pixels"].tolist()) == (np.dtype(np.uint8), pixels(seed=1)[None].tolist())
    with pytest.raises(InputError, match=r"takes images as uint8, and '.*a.PNG' does not give whole numbers"):
        open_samples(Images(folder, (8, 8), layout="NHWC"), spec)


def test_images_are_read_one_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    read = Images.read

    def seeing(self: Images, file: Path, dtype: Any = F32) -> Any:
        seen.append(file.name)
        return read(self, file, dtype)

    monkeypatch.setattr(Images, "read", seeing)
    feeds = iter(open_samples(Images(folder, (8, 8)), RGB))
    seen.clear()
    next(feeds)
    assert seen == ["a.PNG"]


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_images_fill_the_batch_that_a_model_fixes(batch: int | str, folder: Path) -> None:
    samples = open_samples(Images(folder, (8, 8)), (InputSpec("pixels", F32, (batch, 3, 8, 8)),))
    assert sum(len(feed["pixels"]) for feed in samples) == 3


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_an_image_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "bad.png").write_bytes((folder / "b.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"^Image '.*bad.png' cannot be read: .* Replace it, or take it out") as told:
        len(open_samples(Images(folder, (8, 8)), RGB))
    assert "\n" not in str(told.value)


def test_an_image_of_16_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep.png' cannot be read: its pixels are of type 'I;16'"):
        next(iter(Images(tmp_path, (8, 8))))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (("n", 3, 32, 48), 'size = [32, 48]  # height and width\nlayout = "NCHW"\ncolor = "RGB"  # or "BGR"\n'),
        ((1, 32, 48, 3), 'size = [32, 48]  # height and width\nlayout = "NHWC"\ncolor = "RGB"'),
        (("n", 1, -1, None), 'size = [224, 224]  # height and width\nlayout = "NCHW"\ncolor = "L"\n'),
        ((28, 28), 'size = [224, 224]  # height and width\nlayout = "NCHW"\ncolor = "RGB"'),
    ],
)
def test_images_without_a_spec_are_refused_with_an_example_that_works(
    shape: tuple[int | str | None, ...], wanted: str, folder: Path
) -> None:
    with pytest.raises(InputError, match=r"a.PNG' is one of 3 images, and there is no 'preprocess.toml'") as told:
        open_samples(folder, (InputSpec("pixels", F32, shape),))
    text = str(told.value)
    assert wanted in text
    (folder / "preprocess.toml").write_text(text[text.index("size =") :])
    assert Images.described(folder).files
    if len(shape) == 4:
        open_samples(folder, (InputSpec("pixels", F32, shape),))


def test_images_of_another_shape_than_the_input_are_refused_before_they_are_read(folder: Path) -> None:
    with pytest.raises(InputError, match=r"prepared as \(3, 9, 9\), and input 'pixels' expects \(n, 3, 8, 8\)"):
        open_samples(Images(folder, (9, 9)), RGB)


def test_a_model_of_two_inputs_takes_no_images(folder: Path) -> None:
    with pytest.raises(InputError, match="feed one input, and the model has 2: 'pixels', 'other'"):
        open_samples(Images(folder, (8, 8)), (*RGB, InputSpec("other", F32, (1,))))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("syze = [8, 8]", r"there is no 'syze'. Did you mean 'size'\? 'size' is missing"),
        ("size = 8", "'size' is 8, expected height and width as two whole numbers"),
        ('size = [8, 8]\nlayout = "NCWH"', "'layout' is 'NCWH', expected NCHW or NHWC"),
        ("size = [8, 8]\nmean = [0.5, 0.5]\nstd = 0", "'mean' is .* or 3, one for each channel; 'std' is 0, expected"),
        ("size = [8, 8]\ncrop = 2\nscale = 0", "'scale' is 0, expected a number other than 0; 'crop' is 2"),
        ("size = [8", "preprocess.toml' is not TOML"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused(text: str, told: str, folder: Path) -> None:
    (folder / "preprocess.toml").write_text(text)
    with pytest.raises(InputError, match=told):
        open_samples(folder, RGB)


def test_folders_without_images_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        open_samples(Images(tmp_path, (8, 8)), RGB)
    with pytest.raises(InputError, match="There is no folder of images"):
        open_samples(Images(tmp_path / "none", (8, 8)), RGB)
    with pytest.raises(InputError, match=r"holds no \.npz and no \.npy"):
        open_samples(tmp_path, RGB)


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(InputError, match=r"pip install 'onnxmpq\[images\]'"):
        open_samples(Images(folder, (8, 8)), RGB)


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_a_model_is_quantised_on_a_folder_of_images_as_on_their_arrays(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    levels = np.round(np.load(MODELS / "digits_calibration.npz")["image"][:8, 0] * 255).astype(np.uint8)
    for index, level in enumerate(levels):
        Image.fromarray(level).save(folder / f"{index}.png")
    arrays = {"image": (levels[:, None] / 255).astype(np.float32)}
    made = []
    for name, data in (("images", Images(folder, (16, 16), color="L")), ("arrays", arrays)):
        path = tmp_path / f"{name}.onnx"
        onnxmpq.quantize(
            MODELS / "digits_cnn.onnx", data, output=path, verify=VerifyOptions(allow_slower=True, speed_budget_s=0.0)
        )
        made.append(onnx.load(path).SerializeToString(deterministic=True))
    assert made[0] == made[1]


def test_the_example_says_what_an_input_asks_for() -> None:
    assert example((1, 3, 32, 48)).splitlines()[0] == "size = [32, 48]  # height and width"
