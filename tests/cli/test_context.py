"""`onnxmpq verify --context`: what a machine loads without preparing it anew; and shapes that it wants fixed."""

from pathlib import Path

import onnx

from tests.cli.running import refused, run
from tests.needed import need_runtime


def test_a_context_binary_is_written_beside_the_verdict(chain: Path) -> None:
    need_runtime("qnn")
    ready = chain / "ready.onnx"
    run(*"quantize m.onnx -c s.npz -o n.onnx -t qnn --pass fix-shapes".split(), "-q")
    verified = *"verify n.onnx --float m.onnx -c s.npz -t qnn --context".split(), str(ready)
    assert "emulated" in run(*verified).stdout
    assert [node.op_type for node in onnx.load(ready).graph.node] == ["EPContext"]
    assert "exists" in str(refused(*verified))


def test_a_runtime_that_prepares_nothing_is_told(chain: Path) -> None:
    run(*"quantize m.onnx -c s.npz -o q.onnx -q".split())
    told = refused(*"verify q.onnx --float m.onnx -c s.npz --context c.onnx".split())
    assert str(told) == "The runtime 'onnxruntime' prepares no files for a machine. Leave out --context."
    assert not (chain / "c.onnx").exists()


def test_open_shapes_are_told_with_what_fixes_them(chain: Path) -> None:
    told = refused(*"quantize m.onnx -c s.npz -o n.onnx -t qnn".split())
    assert "loads static shapes only; open: 'x' [n,16,9,9]. Add --pass fix-shapes" in str(told)
