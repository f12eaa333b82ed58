"""The benchmark's networks: legal, of the right size, and runnable."""

import numpy as np
import onnx
import pytest

from benchmarks.shapes import LARGE, NETS, feeds, parameters
from onnxmpq.runtimes import get_runtime

EVERY = {**NETS, **LARGE}
MILLIONS = {
    "resnet18": 11.7,
    "resnet50": 25.6,
    "mobilenetv2": 3.5,
    "mobilenetv2-hardswish": 3.5,
    "mobilenetv2-silu": 3.5,
    "vit-tiny": 5.7,
}


@pytest.mark.parametrize("net", EVERY)
def test_network_passes_the_checker_and_has_as_many_parameters_as_the_original(net: str) -> None:
    model = EVERY[net](224)
    onnx.checker.check_model(model, full_check=True)
    assert parameters(model) / 1e6 == pytest.approx(MILLIONS[net], rel=0.02)
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)


@pytest.mark.parametrize("net", EVERY)
def test_network_runs_on_small_images_and_its_numbers_stay_in_range(net: str) -> None:
    model = EVERY[net](64)
    got = get_runtime("onnxruntime").session(model.SerializeToString(), mode="deployed").run(feeds(model, 1, 0)[0])["y"]
    assert got.shape == (1, 1000)
    assert 0.01 < float(got.std()) < 100


@pytest.mark.parametrize("net", EVERY)
def test_same_seed_gives_the_same_network(net: str) -> None:
    assert EVERY[net](32).SerializeToString() == EVERY[net](32).SerializeToString()


def test_feeds_depend_on_their_seed_only() -> None:
    model = NETS["resnet18"](32)
    first, again, other = feeds(model, 2, 1), feeds(model, 2, 1), feeds(model, 2, 3)
    np.testing.assert_array_equal(first[1]["x"], again[1]["x"])
    assert np.abs(first[0]["x"] - other[0]["x"]).max() > 0.1
