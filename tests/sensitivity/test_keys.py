"""Keys: the same for equal jobs wherever they are made, another for any other job."""

import hashlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import InternalError
from onnxmpq.sensitivity.stored.keys import job_json, key


@dataclass(frozen=True)
class Job:
    """A job of this module."""

    unit: str
    bits: tuple[int, ...] = ()
    weight: float | int | bool | None = None
    more: object = None


@dataclass
class Thawed:
    """Can change after its key was made."""


class Kind(Enum):
    GRAM = "gram"


def test_keys_tell_jobs_apart() -> None:
    jobs = [
        Job("a"),
        Job("b"),
        Job("a", (1, 2)),
        Job("a", (12,)),
        Job("a", weight=1),
        Job("a", weight=1.0),
        Job("a", weight=True),
        Job("a", weight=0.1 + 0.2),
        Job("a", weight=0.3),
        Job("a", more=Job("a")),
        Job("a", more={"x": 1}),
        Job("a", more="ä"),
    ]
    assert len({key(job) for job in jobs}) == len(jobs)
    assert key(Job("a", more={"x": 1, "y": Kind.GRAM})) == key(Job("a", more={"y": Kind.GRAM, "x": 1}))


def test_keys_stay_what_they_are() -> None:
    """A change here makes every store that users have worthless."""
    text = job_json(Job("conv_1", (8, 4), 0.1))
    assert text == '{"Job":{"bits":[8,4],"more":null,"unit":"conv_1","weight":0.1}}'
    assert key(Job("conv_1", (8, 4), 0.1)) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, {"a"}, b"x", Path("x"), np.int64(1), np.zeros(1)], ids=repr)
def test_a_job_of_uncertain_spelling_is_refused(value: object) -> None:
    with pytest.raises(InternalError, match="key would not be certain"):
        key(Job("a", more=value))


@pytest.mark.parametrize("job", [("a", 1), Thawed(), Job], ids=["tuple", "thawed", "class"])
def test_a_job_is_a_frozen_data_class(job: object) -> None:
    with pytest.raises(InternalError):
        key(job)
