"""Tensors between segments: the same whether they lie in memory or in files, and gone when nobody wants them."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.refit.shelf import Shelf


@pytest.mark.parametrize("room", [0, 100, 1 << 20])
def test_what_was_put_comes_back_wherever_it_lay(room: int, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, room)
    for sample in range(3):
        shelf.new({"x": np.full(8, sample, np.float32), "flag": np.array(True), "text": np.array(["a"], object)})
        shelf.put(sample, {"T": np.arange(4) + sample})
    assert len(shelf) == 3
    for sample in range(3):
        found = shelf.get(sample, ["x", "T", "text"])
        np.testing.assert_array_equal(found["x"], np.full(8, sample, np.float32))
        np.testing.assert_array_equal(found["T"], np.arange(4) + sample)
        assert list(found["text"]) == ["a"]
    assert bool(list(tmp_path.iterdir())) == (room < 1000)


def test_threads_may_read_side_by_side(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 0)
    for sample in range(4):
        shelf.new({"x": np.full((2, 4), sample, np.float32)})
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda sample: shelf.get(sample % 4, ["x"])["x"], range(2000)))
    finally:
        sys.setswitchinterval(before)
    assert all((array == number % 4).all() and array.shape == (2, 4) for number, array in enumerate(found))


def test_what_nobody_wants_is_gone_and_makes_room(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, 40)
    shelf.new({"x": np.zeros(8, np.float32)})
    shelf.put(0, {"T": np.zeros(8, np.float32)})
    assert len(list(tmp_path.iterdir())) == 1
    shelf.keep(lambda name: name == "y")
    assert not list(tmp_path.iterdir())
    assert shelf.left == 40
    with pytest.raises(KeyError):
        shelf.get(0, ["x"])
