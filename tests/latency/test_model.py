"""What is foreseen of a plan's time is what a machine does whose time is a sum of units and borders."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from onnxmpq.artifacts import FLOAT, Option
from onnxmpq.errors import InputError
from onnxmpq.latency.fastest import quickest
from onnxmpq.latency.model import Latency
from tests.latency.made import CODES, MACHINE, Machine


def learnt(machine: Machine) -> Latency:
    seen = [machine.observe(plan, whole=True) for plan in machine.kernels.design()]
    return Latency.fitted(machine.kernels, machine.borders, seen, {"machine": "made up"})


def every_plan(machine: Machine) -> list[dict[str, Option]]:
    return [
        dict(zip(machine.units, kinds, strict=True)) for kinds in product((FLOAT, CODES), repeat=len(machine.units))
    ]


def test_the_time_of_plans_that_were_never_seen_is_foreseen() -> None:
    latency = learnt(MACHINE)
    plans = every_plan(MACHINE)
    errors = [abs(latency.seconds(plan) / MACHINE.whole(plan) - 1) for plan in plans]
    assert np.median(errors) < 0.03
    assert max(errors) < 0.12


def test_what_a_profiler_adds_to_every_step_is_taken_off() -> None:
    plans = every_plan(MACHINE)
    slow = learnt(replace(MACHINE, profiler_s=5e-4))
    assert np.median([abs(slow.seconds(plan) / MACHINE.whole(plan) - 1) for plan in plans]) < 0.05


def test_the_quickest_plan_is_the_one_that_trying_all_of_them_finds() -> None:
    latency = learnt(MACHINE)
    best = min(every_plan(MACHINE), key=MACHINE.whole)
    assert quickest(latency, MACHINE.kernels, seed=0) == best
    assert 1 < sum(kernel == CODES for kernel in best.values()) < len(best)


def test_dear_borders_leave_units_on_the_kernel_of_their_neighbours() -> None:
    dear = replace(MACHINE, border_s=1e-2)
    assert len(set(quickest(learnt(dear), dear.kernels, seed=0).values())) == 1


def test_a_change_of_one_unit_is_the_difference_of_the_whole() -> None:
    latency = learnt(MACHINE)
    plan = dict.fromkeys(MACHINE.units, FLOAT)
    for unit in MACHINE.units:
        change = latency.change(plan, unit, CODES)
        assert change == pytest.approx(latency.seconds(plan | {unit: CODES}) - latency.seconds(plan), abs=1e-12)


def test_a_table_is_the_same_when_it_is_read_again() -> None:
    latency = learnt(MACHINE)
    again = Latency.from_json(json.loads(json.dumps(latency.to_json())), "t.json")
    assert again == latency
    assert again.about == {"machine": "made up"}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda table: table.update(schema=9), "is not a table of latencies"),
        (lambda table: table["units"]["u0"].pop("borders"), r"cannot be used .* \(KeyError"),
        (lambda table: table["units"]["u0"]["borders"].append(1.0), "has 3 borders, not 2"),
        (lambda table: table.update(rest_s=float("nan")), "no numbers"),
    ],
)
def test_a_table_that_is_damaged_is_refused(damage: object, told: str) -> None:
    table = learnt(MACHINE).to_json()
    assert callable(damage)
    damage(table)
    with pytest.raises(InputError, match=told):
        Latency.from_json(table, "t.json")


def test_in_every_group_of_the_design_a_unit_runs_once_on_every_kernel() -> None:
    plans = list(MACHINE.kernels.design())
    assert plans[:2] == [dict.fromkeys(MACHINE.units, FLOAT), dict.fromkeys(MACHINE.units, CODES)]
    for first, second in zip(plans[2::2], plans[3::2], strict=True):
        assert all({first[unit], second[unit]} == {FLOAT, CODES} for unit in MACHINE.units)
