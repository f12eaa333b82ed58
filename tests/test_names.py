"""Public names mean the same however a program imports the package."""

import json
import pkgutil
import subprocess
import sys

import onnxmpq

EVERY_NAME_TWICE = """
import importlib, json, sys
import onnxmpq
before = {name: getattr(onnxmpq, name) for name in onnxmpq.__all__}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
after = {name: getattr(onnxmpq, name) for name in onnxmpq.__all__}
print(json.dumps([name for name in onnxmpq.__all__ if before[name] is not after[name]]))
assert callable(onnxmpq.target) and onnxmpq.target("generic").name == "generic"
assert onnxmpq.inspect("models/digits_cnn.onnx", "generic").units
assert onnxmpq.target("ort-cpu").runtime == "onnxruntime"
"""


def submodules() -> list[str]:
    """Return all modules but those that run something when they are imported."""
    found = pkgutil.walk_packages(onnxmpq.__path__, "onnxmpq.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def test_no_submodule_takes_a_public_name() -> None:
    tops = {name.split(".")[1] for name in submodules()}
    assert len(tops) > 20
    assert not tops & set(onnxmpq.__all__)


def test_every_public_name_is_the_same_after_every_submodule_was_imported() -> None:
    command = [sys.executable, "-c", EVERY_NAME_TWICE, json.dumps(submodules())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == []
