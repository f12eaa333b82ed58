"""The assignment problem, solved: plans with a proof, on HiGHS."""

from onnxmpq.solve.certificate import Certificate, verify
from onnxmpq.solve.fronts import solve_front
from onnxmpq.solve.problem import Budget, Implication, Problem
from onnxmpq.solve.solution import Shortfall, Solution, relative_gap
from onnxmpq.solve.solver import ROUGH, solve

__all__ = [
    "ROUGH",
    "Budget",
    "Certificate",
    "Implication",
    "Problem",
    "Shortfall",
    "Solution",
    "relative_gap",
    "solve",
    "solve_front",
    "verify",
]
