"""What a set of rules is: each rule with its source, and a check that finds all places of a file that break one.

A set of your own is a class that derives from ``FileRules``, under an entry point of the group ``onnxmpq.filerules``
and of the name that targets give in ``rules``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import onnx_ir as ir

from onnxmpq.registry import FILE_RULES


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its name, what it says in one sentence, and where that is from."""

    name: str
    says: str
    source: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a file breaks: at which node or tensor, and what stands there."""

    rule: Rule
    where: str
    what: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.rule.name} at '{self.where}': {self.what}"


class FileRules(ABC):
    """All rules that one runtime has for files."""

    name: ClassVar[str]
    rules: ClassVar[tuple[Rule, ...]]

    @abstractmethod
    def check(self, model: ir.Model) -> Iterator[Broken]:
        """Yield every rule that a file breaks, place by place."""


@cache
def file_rules(name: str) -> FileRules:
    """Return the set of rules of that name."""
    found: FileRules = FILE_RULES.load(name)()
    return found
