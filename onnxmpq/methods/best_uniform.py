"""``uniform`` under budgets: every unit at one option, the best measured of those that meet them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxmpq.artifacts import FLOAT
from onnxmpq.errors import InfeasibleError
from onnxmpq.methods.study import Choices, Draft, Study
from onnxmpq.methods.uniform import uniform_choices


@dataclass(frozen=True, slots=True)
class BestUniform:
    """Measure every uniform plan within the budgets."""

    name: ClassVar[str] = "uniform"

    def propose(self, study: Study) -> Draft:
        """Return the uniform plans within the budgets, the best first."""
        menu = study.menu
        offered = dict.fromkeys(option for options in menu.options for option in options if option != FLOAT)
        plans: list[Choices] = []
        for option in offered:
            choices = uniform_choices(menu.units, menu.options, option)
            if study.feasible(choices) and choices not in plans:
                plans.append(choices)
        if not plans:
            study.solve(study.problem(np.zeros(sum(map(len, menu.options)))))  # refuses what nothing meets
            raise InfeasibleError("No uniform plan meets the budgets, but mixed ones do: choose another method.")
        losses = [found.value for found in study.losses(plans)]
        ranked = sorted(range(len(plans)), key=losses.__getitem__)
        return Draft(tuple(plans[place] for place in ranked), (None,) * len(plans))
