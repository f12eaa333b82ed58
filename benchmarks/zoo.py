"""Real models with real data, from a folder of your own that ``ONNXMPQ_ZOO`` names.

The folder holds ``models/NAME.onnx``, ``data/FILE.npz`` and ``models.json``, which says for each model: ``calib`` and
``test`` as [file, array (, labels)], masks where there are any, and how images become floats (``sub``, ``div``,
``layout``). Nothing of it comes with onnxmpq.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnxmpq.errors import InputError
from onnxmpq.runtimes import Session

Array = np.ndarray
Feeds = Mapping[str, Array]
_BATCH = 50


def folder() -> Path:
    """Return the folder of the models, by default beside the checkout."""
    return Path(os.environ.get("ONNXMPQ_ZOO", "../shared/zoo"))


@dataclass(frozen=True, slots=True)
class Split:
    """Test data: an array for each input, and what the outputs are scored against."""

    name: str
    feeds: Mapping[str, Array]
    truth: Array


@dataclass(frozen=True, slots=True)
class ZooModel:
    """One model: where it is, feeds to calibrate with, test splits and its metric (``top1`` or ``spearman``)."""

    name: str
    path: Path
    calibration: Mapping[str, Array]
    splits: tuple[Split, ...]
    metric: str

    def scores(self, session: Session, split: Split) -> Array:
        """Return what the metric is computed from: hits, or cosines of sentence pairs."""
        count = len(next(iter(split.feeds.values())))
        parts = []
        for start in range(0, count, _BATCH):
            feed = cut({name: array[start : start + _BATCH] for name, array in split.feeds.items()})
            parts.append(next(iter(session.run(feed).values())))
        outputs = np.concatenate([part.reshape(len(part), -1) for part in parts])
        if self.metric == "spearman":
            cosines: Array = (outputs[0::2] * outputs[1::2]).sum(1)
            return cosines
        hits: Array = outputs.argmax(1) == split.truth
        return hits


def cut(feed: Feeds) -> Feeds:
    """Take off what is behind the longest text: it has no meaning."""
    if "attention_mask" not in feed:
        return feed
    width = int(feed["attention_mask"].sum(1).max())
    return {name: array[:, :width] for name, array in feed.items()}


def names() -> list[str]:
    """Return the models that have a metric and data."""
    table = _table()
    return [
        name for name in sorted(table) if (folder() / "models" / f"{name}.onnx").is_file() and "calib" in _spec(name)
    ]


@cache
def _table() -> dict[str, dict[str, Any]]:
    file = folder() / "models.json"
    if not file.is_file():
        raise InputError(f"There is no '{file}'. Set ONNXMPQ_ZOO to the folder of your models; see benchmarks/zoo.py.")
    return dict(json.loads(file.read_text(encoding="utf-8"))["models"])


def _spec(name: str) -> dict[str, Any]:
    spec = dict(_table()[name])
    while "like" in spec:
        spec = {**_table()[spec.pop("like")], **spec}
    return spec


@cache
def _file(name: str) -> Any:
    return np.load(folder() / "data" / f"{name}.npz")


def _array(name: str, key: str) -> Array:
    """Read an array; KEY_dx holds differences along the last axis, modulo 256."""
    data = _file(name)
    values: Array = np.cumsum(data[f"{key}_dx"], axis=-1, dtype=np.uint8) if f"{key}_dx" in data.files else data[key]
    return values


def _images(values: Array, spec: Mapping[str, Any]) -> Array:
    """Scale images to the floats the model wants."""
    if spec.get("bgr"):
        values = values[:, ::-1]
    if spec.get("layout") == "NHWC":
        values = values.transpose(0, 2, 3, 1)

    def each(value: Any) -> Array:
        return np.asarray(value, np.float32).reshape((1, -1, 1, 1)) if isinstance(value, list) else np.asarray(value)

    scaled: Array = (values.astype(np.float32) - each(spec.get("sub", 0))) / each(spec.get("div", 1))
    return np.ascontiguousarray(scaled, np.float32)


def zoo_model(name: str, input_name: str) -> ZooModel:
    """Read a model's data; ``input_name`` is the input that images go to."""
    spec = _spec(name)
    if spec["metric"].startswith("spearman"):

        def tokens(part: str, file: str, array: str) -> dict[str, Array]:
            ids, mask = _array(file, array), _array(*spec[f"{part}_mask"])
            return {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}

        calibration = tokens("calib", *spec["calib"])
        file, array, truth = spec["test"][0]
        splits: tuple[Split, ...] = (Split(file, tokens("test", file, array), _array(file, truth)),)
        metric = "spearman"
    else:
        calibration = {input_name: _images(_array(*spec["calib"]), spec)}
        splits = tuple(
            Split(file, {input_name: _images(_array(file, x), spec)}, _array(file, y) + spec.get("label_offset", 0))
            for file, x, y in spec["test"]
        )
        metric = "top1"
    return ZooModel(name, folder() / "models" / f"{name}.onnx", calibration, splits, metric)
