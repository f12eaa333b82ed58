"""Names out of files are shown and never obeyed: no escape sequence of theirs reaches a terminal or a pipe."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.graphs import feeds_for, layer_chain
from tests.processes import onnxmpq

EVIL = "con\x1b]0;mine\x07v\x1b[2J\x1b[31m\x9b1m\r\x08[bold]"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a model whose layers are called after escape sequences."""
    folder = tmp_path_factory.mktemp("console")
    model = layer_chain("Conv")
    proto = ir.to_proto(model)
    for number, node in enumerate(proto.graph.node):
        node.name = f"{EVIL}{number}"
    onnx.save(proto, str(folder / "m.onnx"))
    np.savez(folder / "s.npz", x=np.concatenate([feed["x"] for feed in feeds_for(model)]))
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "m.onnx"),
        ("inspect", "m.onnx", "--json"),
        ("measure", "m.onnx", "-c", "s.npz", "--options", "w4a8"),
        ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--option", "w2a8", "--allow-slower", "--overwrite"),
        ("diagnose", "m.onnx", "-c", "s.npz", "--option", "w2a8"),
        ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--keep", "none=w8", "--overwrite"),
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_no_control_character_is_printed(arguments: tuple[str, ...], desk: Path) -> None:
    ended = onnxmpq(*arguments, folder=desk)
    assert ended.returncode in (0, 2), ended.stderr
    shown = ended.stdout + ended.stderr
    assert ("con" in shown) == ("--keep" not in arguments)
    assert not [character for character in shown if character not in "\n\t" and not character.isprintable()]
