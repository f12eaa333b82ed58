"""Draw pictures of shapes with the boxes around them, and judge detections of them: numpy alone, no files.

    draw(count, seed)           ->  image [count, 1, SIDE, SIDE] in 0..1, and for every picture its objects
    detections(output)          ->  for every picture what is left after suppression, best first
    average_precision(...)      ->  mAP over IoU 0.50 to 0.95, as COCO counts it

Every picture has one to five circles, squares and triangles, filled or outlined, brighter or darker than a background
that shades from one side to the other and carries bars and noise. Only ``Generator.random`` is drawn from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("circle", "square", "triangle")
SIDE = 96  # pixels
MOST_OBJECTS = 5
SMALLEST, LARGEST = 10.0, 54.0  # pixels, the side of an object's box
MOST_OVERLAP = 0.1  # IoU of two objects of a picture
THRESHOLDS = np.arange(0.5, 1.0, 0.05)
MOST_DETECTIONS = 30
LEAST_SCORE = 0.02
SUPPRESSED = 0.6  # IoU from which on the worse of two detections of a class goes

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Objects:
    """What is in a picture, or was found there, best first.

    ``boxes`` [n, 4] hold left, top, right and bottom in pixels, ``classes`` [n] whole numbers, ``scores`` [n] 0..1.
    """

    boxes: Array
    classes: NDArray[np.int64]
    scores: Array


# --- pictures ---------------------------------------------------------------------------------------------------------


def draw(count: int, seed: int) -> tuple[NDArray[np.float32], list[Objects]]:
    """Return pictures and what is in them; the first ones of a seed are the same however many are asked for."""
    pictures, found = np.empty((count, 1, SIDE, SIDE), np.float32), []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        picture, objects = _picture(random)
        pictures[number, 0] = picture
        found.append(objects)
    return pictures, found


def _picture(random: np.random.Generator) -> tuple[Array, Objects]:
    """Draw one picture."""
    picture = _background(random)
    boxes, classes = list[Array](), list[int]()
    for _ in range(1 + int(random.random() * MOST_OBJECTS)):
        box = _place(random)
        if boxes and iou(box[None], np.stack(boxes)).max() > MOST_OVERLAP:
            continue
        kind = int(random.random() * len(CLASSES))
        cover = _cover(kind, box, random)
        behind = float((picture * cover).sum() / cover.sum())
        contrast = (0.2 + 0.4 * random.random()) * (1 if random.random() < 1 - behind else -1)
        picture += cover * (np.clip(behind + contrast, 0, 1) - picture)
        boxes.append(box)
        classes.append(kind)
    noise = (random.random((SIDE, SIDE)) - 0.5) * 0.25 * random.random()
    objects = Objects(np.stack(boxes), np.array(classes, np.int64), np.ones(len(boxes)))
    return np.clip(picture + noise, 0, 1), objects


def _background(random: np.random.Generator) -> Array:
    """Shade from one side to the other, with some soft bars across."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    turn = 2 * np.pi * random.random()
    along = np.cos(turn) * x + np.sin(turn) * y
    bars = 0.06 * random.random() * np.sin(2 * np.pi * ((2 + 6 * random.random()) * along + random.random()))
    shade: Array = 0.25 + 0.5 * random.random() + 0.3 * (random.random() - 0.5) * along + bars
    return shade


def _place(random: np.random.Generator) -> Array:
    """Return a box, as many small ones as large ones by the logarithm of their sides."""
    width = SMALLEST * (LARGEST / SMALLEST) ** random.random()
    height = np.clip(width * 1.4 ** (2 * random.random() - 1), SMALLEST, LARGEST)
    left, top = random.random() * (SIDE - width), random.random() * (SIDE - height)
    return np.array([left, top, left + width, top + height])


def _cover(kind: int, box: Array, random: np.random.Generator) -> Array:
    """Return how much of every pixel an object covers; some are outlines."""
    left, top, right, bottom = box
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    u, v = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)  # -1..1 inside
    reach = min(right - left, bottom - top) / 2
    match CLASSES[kind]:
        case "circle":
            depth = 1 - np.hypot(u, v)
        case "square":
            depth = 1 - np.maximum(abs(u), abs(v))
        case _:
            depth = np.minimum(1 - v, (1 + v - 2 * abs(u)) / np.sqrt(5))
    cover: Array = np.clip(depth * reach + 0.5, 0, 1)
    if random.random() < 0.3:
        cover = cover * (1 - np.clip(depth * reach - max(0.25 * reach, 2.0) + 0.5, 0, 1))
    return cover


# --- detections -------------------------------------------------------------------------------------------------------


def iou(a: Array, b: Array) -> Array:
    """Return the area of intersection over union of all boxes of two lists, [len(a), len(b)]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    shared: Array = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)
    return shared


def detections(output: NDArray[np.float32]) -> list[Objects]:
    """Return what a detector finds in every picture, from [pictures, 4 + classes, places].

    The first four rows are centre, width and height in pixels, the others scores.
    """
    return [_suppressed(np.asarray(one, np.float64)) for one in output]


def _suppressed(output: Array) -> Objects:
    """Return the best detections of a picture, of each class none that overlaps a better one."""
    centre, size, scores = output[:2].T, output[2:4].T, output[4:]
    classes, places = np.nonzero(scores > LEAST_SCORE)
    order = np.argsort(-scores[classes, places], kind="stable")[: 4 * MOST_DETECTIONS]
    classes, places = classes[order], places[order]
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)[places]
    overlap = (iou(boxes, boxes) > SUPPRESSED) & (classes[:, None] == classes[None])
    kept = list[int]()
    for place in range(len(classes)):
        if not overlap[place, kept].any():
            kept.append(place)
    best = np.array(kept[:MOST_DETECTIONS], np.int64)
    return Objects(boxes[best], classes[best].astype(np.int64), scores[classes, places][best])


@dataclass(frozen=True, slots=True)
class Matches:
    """What detections of one class in one picture are worth, best first.

    ``hits`` [thresholds, n] tell which ones are of an object that no better one has taken; there are ``total`` objects.
    """

    scores: Array
    hits: NDArray[np.bool_]
    total: int


def average_precision(
    found: Sequence[Objects], wanted: Sequence[Objects], thresholds: Sequence[float] | Array = THRESHOLDS
) -> float:
    """Return the mean over classes and IoU thresholds of the average precision, at 101 recalls as COCO has it."""
    return mean_precision([matched(*both, thresholds) for both in zip(found, wanted, strict=True)])


def matched(found: Objects, wanted: Objects, thresholds: Sequence[float] | Array = THRESHOLDS) -> list[Matches]:
    """Match the detections of a picture with its objects, class by class."""
    shared, matches = iou(found.boxes, wanted.boxes), []
    for kind in range(len(CLASSES)):
        own, true = found.classes == kind, wanted.classes == kind
        each = shared[own][:, true]
        hits = np.stack([_hits(each, threshold) for threshold in thresholds])
        matches.append(Matches(found.scores[own], hits, int(true.sum())))
    return matches


def _hits(shared: Array, threshold: float) -> NDArray[np.bool_]:
    """Tell which detections are of an object that no better one has taken, from their IoU [detections, objects]."""
    hits, free = np.zeros(len(shared), bool), np.ones(shared.shape[1], bool)
    for place in np.flatnonzero((shared >= threshold).any(axis=1)):
        row = np.where(free, shared[place], 0.0)
        if row.max() >= threshold:
            hits[place] = True
            free[row.argmax()] = False
    return hits


def mean_precision(pictures: Sequence[Sequence[Matches]]) -> float:
    """Return the mean over classes and thresholds of the average precision, from the matches of pictures.

    Classes of which there is no object do not count; where there is none at all nothing may be found.
    """
    by_class = [[picture[kind] for picture in pictures] for kind in range(len(CLASSES))]
    there = [matches for matches in by_class if any(each.total for each in matches)]
    if not there:
        return float(not any(len(each.scores) for matches in by_class for each in matches))
    return float(np.mean([_precision(matches) for matches in there]))


def _precision(matches: Sequence[Matches]) -> float:
    """Return the average precision of one class, the mean over thresholds."""
    order = np.argsort(-np.concatenate([each.scores for each in matches]), kind="stable")
    hits = np.cumsum(np.concatenate([each.hits for each in matches], axis=1)[:, order], axis=1)
    recall = hits / max(sum(each.total for each in matches), 1)
    precision = hits / np.arange(1, len(order) + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    asked = np.linspace(0, 1, 101)
    return float(
        np.mean([one[np.searchsorted(had, asked, side="left")] for one, had in zip(best, recall, strict=True)])
    )
