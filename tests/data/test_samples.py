"""Samples: every accepted form gives the same feeds, and every mistake is named."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.data.samples import Data, Feed, InputSpec, open_samples
from onnxmpq.errors import InputError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = (InputSpec("x", F32, ("batch", 3)),)
TEXT = (InputSpec("ids", I64, ("batch", "length")), InputSpec("mask", I64, ("batch", "length")))
X = np.arange(18, dtype=np.float32).reshape(6, 3)


class Rewinding:
    """An onnxruntime-like reader that can start again."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds, self.at = feeds, len(feeds)

    def get_next(self) -> dict[str, Any] | None:
        self.at += 1
        return self.feeds[self.at - 1] if self.at <= len(self.feeds) else None

    def rewind(self) -> None:
        self.at = 0


class Once:
    """An onnxruntime-like reader without rewind."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def _npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def _folder(path: Path) -> Path:
    _npz(path / "b.npz", x=X[4:])
    _npy(path / "a.npy", X[:4])
    (path / "notes.txt").write_text("not a sample")
    return path


FORMS: dict[str, Callable[[Path], Data]] = {
    "npz": lambda path: _npz(path / "c.npz", x=X, more=X),
    "npz with an axis for samples": lambda path: _npz(path / "c.npz", x=X[:, None]),
    "path as text": lambda path: str(_npz(path / "c.npz", x=X)),
    "npy": lambda path: _npy(path / "c.npy", X),
    "folder": _folder,
    "array": lambda path: X,
    "dict of arrays": lambda path: {"x": X},
    "dict of lists": lambda path: {"x": X.tolist()},
    "list of feeds": lambda path: [{"x": X[:1]}, {"x": X[1:3]}, {"x": X[3:]}],
    "generator": lambda path: ({"x": row[None]} for row in X),
    "reader with rewind": lambda path: Rewinding([{"x": X[:2]}, {"x": X[2:]}]),
    "reader without rewind": lambda path: Once([{"x": X[:2]}, {"x": X[2:]}]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_feeds_every_time(form: str, tmp_path: Path) -> None:
    samples = open_samples(FORMS[form](tmp_path), IMAGE)
    for _ in range(2):
        feeds = list(samples)
        assert [feed["x"].tolist() for feed in feeds] == [[row] for row in X.tolist()]
        assert all(feed["x"].dtype == F32 for feed in feeds)
    assert len(samples) == 6
    assert samples.sha256 == open_samples({"x": X}, IMAGE).sha256
    assert (samples.labels, samples.dropped, samples.note) == (None, 0, None)


@given(cuts=st.sets(st.integers(1, 5)), batch=st.sampled_from(["n", None, -1, 1, 2, 3, 4]))
def test_digest_and_feeds_do_not_depend_on_grouping(cuts: set[int], batch: int | str | None) -> None:
    spec = (InputSpec("x", F32, (batch, 3)),)
    whole = open_samples({"x": X, "labels": np.arange(6)}, spec)
    parts = zip(np.split(X, sorted(cuts)), np.split(np.arange(6), sorted(cuts)), strict=True)
    cut = open_samples([{"x": x, "labels": labels} for x, labels in parts], spec)
    assert [feed["x"].tolist() for feed in cut] == [feed["x"].tolist() for feed in whole]
    assert (cut.sha256, len(cut), cut.dropped) == (whole.sha256, len(whole), whole.dropped)
    assert cut.labels is not None
    assert cut.labels.tolist() == list(range(6 - cut.dropped))


@pytest.mark.parametrize(
    "other", [{"x": X + 1}, {"x": X[::-1]}, {"x": X[:5]}, {"x": X, "labels": np.arange(6)}, {"x": X.reshape(9, 1, 2)}]
)
def test_digest_changes_with_the_content(other: dict[str, Any]) -> None:
    inputs = (InputSpec("x", F32, (None, None)),)
    assert open_samples(other, inputs).sha256 != open_samples({"x": X}, inputs).sha256


def test_fixed_batch_is_served_whole_and_the_rest_is_stated() -> None:
    samples = open_samples(({"x": row[None]} for row in X), (InputSpec("x", F32, (4, 3)),))
    assert [feed["x"].tolist() for feed in samples] == [X[:4].tolist()]
    assert samples.dropped == 2
    assert samples.note == "The model fixes a batch of 4: the last 2 rows do not fill one and are not used."


def test_axis_more_than_the_input_is_the_sample_axis() -> None:
    tokens = (InputSpec("x", F32, ("length", 3)), InputSpec("t", F32, ()))
    samples = open_samples({"x": X.reshape(2, 3, 3), "t": np.array([7, 8], np.float32), "labels": [0, 1]}, tokens)
    assert [(feed["x"].shape, feed["t"].item()) for feed in samples] == [((3, 3), 7.0), ((3, 3), 8.0)]
    fixed = open_samples({"x": X.reshape(3, 2, 3)}, (InputSpec("x", F32, (2, 3)),))
    assert (len(fixed), fixed.dropped) == (3, 0)


def test_input_without_axes_is_shared_by_all_rows() -> None:
    inputs = (*IMAGE, InputSpec("t", F32, ()))
    assert [feed["t"].item() for feed in open_samples({"x": X, "t": np.float32(2)}, inputs)] == [2.0] * 6
    pairs = (InputSpec("x", F32, (2, 3)), InputSpec("t", F32, ()))
    assert [feed["t"].item() for feed in open_samples({"x": X, "t": np.float32(2)}, pairs)] == [2.0] * 3


def test_inputs_without_a_common_first_axis_are_one_sample() -> None:
    free = (InputSpec("x", F32, ("nodes", 3)), InputSpec("e", I64, ("edges", 2)))
    feed: dict[str, Any] = {"x": X, "e": np.zeros((9, 2), np.int64)}
    assert [sample["e"].shape for sample in open_samples([feed, feed], free)] == [(9, 2)] * 2
    table = (InputSpec("x", F32, (1, 3)), InputSpec("table", F32, (5, 3)))
    assert len(open_samples([{"x": X[:1], "table": X[:5]}] * 3, table)) == 3


def test_sequences_of_different_length_come_one_by_one() -> None:
    feeds = [{"ids": np.ones((2, n), np.int32), "mask": np.ones((2, n), np.uint8)} for n in (4, 7)]
    got = list(open_samples(feeds, TEXT))
    assert [feed["ids"].shape for feed in got] == [(1, 4), (1, 4), (1, 7), (1, 7)]
    assert {feed["mask"].dtype for feed in got} == {I64}


def test_labels_are_joined_and_cut_like_the_samples(tmp_path: Path) -> None:
    _npz(tmp_path / "a.npz", x=X[:4], labels=np.arange(4))
    _npz(tmp_path / "b.npz", x=X[4:], labels=np.arange(4, 6))
    labels = open_samples(tmp_path, IMAGE).labels
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    classes = open_samples({"x": X, "y": np.eye(6)}, IMAGE, labels="y").labels
    assert classes is not None
    assert classes.shape == (6, 6)
    assert open_samples([{"x": row[None], "labels": 3} for row in X], IMAGE).labels is not None


def test_an_input_may_be_called_labels() -> None:
    samples = open_samples({"labels": X}, (InputSpec("labels", F32, (None, 3)),))
    assert (len(samples), samples.labels) == (6, None)


@pytest.mark.parametrize(
    ("given_type", "model_type"),
    [("float64", "float32"), ("float16", "float32"), ("int32", "int64"), ("uint8", "int64"), ("uint8", "uint8")],
)
def test_types_that_keep_the_meaning_are_cast(given_type: str, model_type: str) -> None:
    inputs = (InputSpec("x", np.dtype(model_type), (None, 3)),)
    assert next(iter(open_samples({"x": X.astype(given_type)}, inputs)))["x"].dtype == model_type


@pytest.mark.parametrize(
    ("given_type", "model_type"),
    [("uint8", "float32"), ("int64", "int32"), ("int64", "float32"), ("float32", "float16"), ("float32", "int64")],
)
def test_other_types_are_refused(given_type: str, model_type: str) -> None:
    with pytest.raises(InputError, match=f"input 'x' expects {model_type}, the data is {given_type}"):
        open_samples({"x": X.astype(given_type)}, (InputSpec("x", np.dtype(model_type), (None, 3)),))


def test_text_inputs_are_served_and_digested() -> None:
    inputs = (InputSpec("x", np.dtype(object), (None,)),)
    first, second = (open_samples({"x": np.array(words)}, inputs) for words in (["a", "bc"], ["a", "bd"]))
    assert [feed["x"].tolist() for feed in first] == [["a"], ["bc"]]
    assert first.sha256 != second.sha256


IDS: Feed = {"ids": np.ones((6, 4), np.int64)}
MISTAKES: dict[str, tuple[Callable[[Path], Any], tuple[InputSpec, ...], str]] = {
    "misspelt": (
        lambda path: {"ids": IDS["ids"], "maks": IDS["ids"]},
        TEXT,
        r"input 'mask' is missing \(is 'maks' meant to be it\?\); 'maks' is not an input \(did you mean 'mask'\?\)",
    ),
    "misspelt in a file": (
        lambda path: _npz(path / "c.npz", X=X),
        IMAGE,
        r"c.npz': input 'x' is missing.*Given: 'X'. Name each array after its input: 'x'",
    ),
    "missing": (lambda path: IDS, TEXT, r"input 'mask' is missing. Given: 'ids'"),
    "no batch axis": (lambda path: {"x": X[0]}, IMAGE, r"expects shape \(batch, 3\), the data is \(3,\)"),
    "too many axes": (lambda path: {"x": X[None, None]}, IMAGE, r"the data is \(1, 1, 6, 3\)"),
    "wrong length": (lambda path: {"x": X[:, :2]}, IMAGE, r"expects shape \(batch, 3\), the data is \(6, 2\)"),
    "unequal numbers": (
        lambda path: {"ids": IDS["ids"], "mask": IDS["ids"][:5]},
        TEXT,
        r"disagree on dimension 'batch': 'ids' \(6, 4\), 'mask' \(5, 4\)",
    ),
    "unequal stacks": (
        lambda path: {"ids": IDS["ids"][:, None], "mask": IDS["ids"][:5]},
        TEXT,
        r"disagree on the number of samples: 'ids' \(6, 1, 4\), 'mask' \(5, 4\)",
    ),
    "nan": (lambda path: {"x": np.where(X == 7, np.nan, X)}, IMAGE, r"sample 2 has NaN in input 'x'"),
    "inf in a later file": (
        lambda path: [_npz(path / "a.npz", x=X), _npz(path / "b.npz", x=X + np.float32(np.inf)), path][-1],
        IMAGE,
        r"b.npz': sample 6 has an infinite value in input 'x'",
    ),
    "too large for float32": (
        lambda path: {"x": X.astype(np.float64) * 1e300},
        IMAGE,
        "sample 0 has an infinite value",
    ),
    "empty": (lambda path: {"x": X[:0]}, IMAGE, "is empty"),
    "no feeds": (lambda path: [], IMAGE, "is empty"),
    "less than a batch": (lambda path: {"x": X}, (InputSpec("x", F32, (8, 3)),), "batch of 8 and there are 6 rows"),
    "unequal rows of a batch": (
        lambda path: [{"x": np.ones((1, n), np.float32)} for n in (3, 4)],
        (InputSpec("x", F32, (2, None)),),
        "differs in shape or value within one batch",
    ),
    "too few labels": (lambda path: {"x": X, "labels": [1, 2]}, IMAGE, "'labels' has 2 entries for 6 samples"),
    "labels for some": (
        lambda path: [{"x": X, "labels": range(6)}, {"x": X}],
        IMAGE,
        "there for only 6 of 12 samples",
    ),
    "no such file": (
        lambda path: _npz(path / "calib.npz", x=X).with_name("clib.npz"),
        IMAGE,
        r"does not exist \(did you mean 'calib.npz'\?\)",
    ),
    "no such folder": (lambda path: path / "nowhere" / "calib.npz", IMAGE, "does not exist"),
    "broken file": (lambda path: [(path / "c.npz").write_bytes(b"PK\3\4 broken"), path][-1], IMAGE, "cannot be read"),
    "pickled file": (
        lambda path: _npz(path / "c.npz", x=np.array([{}], dtype=object)),
        IMAGE,
        "cannot be read: Object arrays",
    ),
    "other file": (lambda path: [p := path / "c.csv", p.write_text("1,2")][0], IMAGE, "neither .npz nor .npy"),
    "folder without samples": (lambda path: path, IMAGE, "holds no .npz and no .npy"),
    "npy for two inputs": (lambda path: _npy(path / "c.npy", X), TEXT, "the model has 2 inputs. Use numpy.savez"),
    "a number": (lambda path: 7, IMAGE, "data of type 'int' cannot be read"),
    "feeds of arrays": (lambda path: [X], IMAGE, "Feed 0 is a 'ndarray'. Expected a dict"),
    "ragged lists": (lambda path: [{"x": [[1.0], [1.0, 2.0]]}], IMAGE, "Feed 0 cannot be made into arrays"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named(mistake: str, tmp_path: Path) -> None:
    make, inputs, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message):
        len(open_samples(make(tmp_path), inputs))


def test_mistake_in_the_first_sample_shows_when_opening() -> None:
    with pytest.raises(InputError, match="sample 0 has NaN"):
        open_samples({"x": X * np.float32(np.nan)}, IMAGE)


def test_only_one_file_is_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(3):
        _npz(tmp_path / f"{k}.npz", x=X[2 * k : 2 * k + 2])
    read: list[str] = []
    load: Callable[..., Mapping[str, Any]] = np.load

    def counted(file: BinaryIO, **options: Any) -> Mapping[str, Any]:
        read.append(Path(file.name).name)
        return load(file, **options)

    monkeypatch.setattr(np, "load", counted)
    stream = iter(open_samples(tmp_path, IMAGE))
    read.clear()
    assert [next(stream)["x"].shape for _ in range(2)] == [(1, 3)] * 2
    assert read == ["0.npz"]
    next(stream)
    assert read == ["0.npz", "1.npz"]
