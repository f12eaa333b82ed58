"""Lowering: whole graphs are written as the files in ``tests/golden`` say.

``pytest tests/test_golden.py --update-golden`` writes the files anew; what it changed is then seen in a diff.
"""

from collections import Counter
from difflib import unified_diff

import pytest

from onnxmpq.model.layers import all_nodes
from tests.golden import FOLDER, every_case, kept, lowered, named_nodes, rewrite, taken_apart


@pytest.fixture(scope="module", autouse=True)
def _updated(request: pytest.FixtureRequest) -> None:
    """Write the files anew if that was asked for."""
    if request.config.getoption("--update-golden"):
        rewrite()


@pytest.mark.parametrize("name", kept())
def test_a_lowered_graph_is_as_it_was(name: str) -> None:
    file, now = FOLDER / name, every_case().get(name)
    if now is None:
        pytest.skip("there is no such case any more, which another test tells")
    before = file.read_text(encoding="utf-8")
    changes = "\n".join(unified_diff(before.splitlines(), now.splitlines(), "before", "now", lineterm=""))
    assert before == now, f"{name} differs; --update-golden writes it anew.\n{changes}"


def test_every_case_has_a_file_and_every_file_a_case() -> None:
    files, names = set(kept()), set(every_case())
    assert names - files == set(), "--update-golden writes these"
    assert files - names == set(), "--update-golden removes these"


def test_each_text_names_every_node_once() -> None:
    for name, text in every_case().items():
        nodes = [node.name for node in all_nodes(lowered(*taken_apart(name)))]
        assert Counter(named_nodes(text)) == Counter(nodes), name
        assert max(Counter(nodes).values()) == 1, name
