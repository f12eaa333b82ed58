"""What files of plans have besides what their units store: found by serialising some of them, none is written.

Sizing(exporter, empty, menu)     the files of choices
.bare, .beside(options)           bytes that belong to no unit, and what each option adds to the graph
with_facts(table, engine, ...)    a table from which plans can be solved without the model
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from onnxmpq.artifacts import FLOAT, Option, Plan
from onnxmpq.budgets.size import Size
from onnxmpq.methods.study import Choices, Menu
from onnxmpq.methods.uniform import uniform_choices
from onnxmpq.options import GraphOptions
from onnxmpq.sensitivity.engine import Engine
from onnxmpq.sensitivity.facts import Facts
from onnxmpq.sensitivity.table import Table
from onnxmpq.workspace.export import Exporter

_SIZE = Size()


class Sizing:
    """The bytes of the files that choices of a menu lead to, and which of them belong to no unit."""

    def __init__(self, exporter: Exporter, empty: Plan, menu: Menu) -> None:
        """Look at files of ``empty`` with choices in it."""
        self.exporter, self.empty, self.menu = exporter, empty, menu
        self._beside: dict[Option, int] = {FLOAT: 0}

    def size(self, choices: Choices) -> int:
        """Return the bytes of the file that choices lead to."""
        return self.exporter.size(replace(self.empty, choices=choices))

    @cached_property
    def bare(self) -> int:
        """The bytes that belong to no unit where all are float."""
        return self._rest({})

    def beside(self, options: Iterable[Option]) -> Mapping[Option, int]:
        """Return the bytes of nodes and names that options add for each unit, as a uniform plan of each shows."""
        for option in options:
            if option not in self._beside:
                found = uniform_choices(self.menu.units, self.menu.options, option)
                same = {unit: taken for unit, taken in found.items() if taken == option}
                self._beside[option] = round((self._rest(same) - self.bare) / len(same)) if same else 0
        return self._beside

    def _rest(self, choices: Choices) -> int:
        """Return the bytes of a file that its units do not store."""
        units = sum(_SIZE.weight(unit, choices.get(unit.name, FLOAT)) for unit in self.menu.units)
        return self.size(choices) - units


def with_facts(table: Table, engine: Engine, *, keep_metadata: bool = False) -> Table:
    """Return a table with what budgets are counted from, for files of the model that was measured."""
    place, space = engine.workspace, engine.space
    empty = place.empty_plan("", GraphOptions(keep_metadata=keep_metadata))
    place.progress("sizes", 0, 0)
    sizing = Sizing(Exporter(place), empty, Menu(space.units, tuple(unit.options for unit in space.units)))
    used = dict.fromkeys([*(variant.option for variant in table.variants), *table.centre.values()])
    beside = sizing.beside(used)
    facts = Facts(space, empty, place.prepared.source.size_bytes, sizing.bare, engine.live_bytes, beside)
    return replace(table, facts=facts)
