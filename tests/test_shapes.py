"""Drawn shapes, and average precision against what can be counted by hand."""

import numpy as np
import pytest

from models import shapes
from models.shapes import Objects

BOX = [10.0, 10.0, 30.0, 30.0]


def objects(*found: tuple[list[float], int, float]) -> Objects:
    """Return objects, best first."""
    boxes, classes, scores = zip(*found, strict=True) if found else ((), (), ())
    return Objects(np.array(boxes, float).reshape(-1, 4), np.array(classes, np.int64), np.array(scores, float))


def test_pictures_of_a_seed_are_the_same_however_many_are_drawn() -> None:
    few, many = shapes.draw(3, 5), shapes.draw(6, 5)
    np.testing.assert_array_equal(few[0], many[0][:3])
    np.testing.assert_array_equal(few[1][2].boxes, many[1][2].boxes)
    assert not np.array_equal(shapes.draw(1, 6)[0][0], few[0][0])


def test_objects_lie_in_their_pictures_and_hardly_overlap() -> None:
    image, found = shapes.draw(100, 0)
    assert image.shape == (100, 1, shapes.SIDE, shapes.SIDE)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    for one in found:
        assert (one.boxes >= 0).all()
        assert (one.boxes <= shapes.SIDE).all()
        assert 1 <= len(one.boxes) <= shapes.MOST_OBJECTS
        assert (np.triu(shapes.iou(one.boxes, one.boxes), 1) <= shapes.MOST_OVERLAP).all()
    assert {int(kind) for one in found for kind in one.classes} == {0, 1, 2}


def test_iou_is_the_common_area_over_the_whole() -> None:
    a, b = np.array([BOX]), np.array([BOX, [20.0, 10.0, 40.0, 30.0], [50.0, 50.0, 60.0, 60.0]])
    np.testing.assert_allclose(shapes.iou(a, b), [[1, 1 / 3, 0]])


@pytest.mark.parametrize(
    ("found", "precision"),
    [
        ([(BOX, 0, 0.9)], 1.0),
        ([(BOX, 1, 0.9)], 0.0),
        ([], 0.0),
        ([(BOX, 0, 0.9), (BOX, 0, 0.8)], 1.0),
        ([([60.0, 60.0, 80.0, 80.0], 0, 0.9), (BOX, 0, 0.8)], 0.5),
        ([([10.0, 10.0, 30.0, 25.1], 0, 0.9)], 0.6),
    ],
    ids=["the object", "of another class", "nothing", "twice", "something better first", "up to an IoU of 0.75"],
)
def test_average_precision_of_one_object(found: list[tuple[list[float], int, float]], precision: float) -> None:
    wanted = [objects((BOX, 0, 1.0))]
    assert shapes.average_precision([objects(*found)], wanted) == pytest.approx(precision)


def test_where_nothing_is_nothing_may_be_found() -> None:
    assert shapes.average_precision([objects()], [objects()]) == 1
    assert shapes.average_precision([objects((BOX, 0, 0.5))], [objects()]) == 0


def test_of_detections_that_overlap_the_best_of_a_class_stays() -> None:
    output = np.zeros((1, 7, 4), np.float32)
    output[0, :4] = np.array([[20, 20, 20, 20], [21, 20, 20, 20], [20, 20, 20, 20], [60, 60, 10, 10]]).T
    output[0, 4:] = np.array([[0.5, 0.9, 0, 0], [0, 0, 0.7, 0], [0, 0, 0, 0.01]])
    [found] = shapes.detections(output)
    np.testing.assert_allclose(found.scores, [0.9, 0.7], rtol=1e-6)
    np.testing.assert_array_equal(found.classes, [0, 1])
    np.testing.assert_allclose(found.boxes, [[11, 10, 31, 30], [10, 10, 30, 30]])
