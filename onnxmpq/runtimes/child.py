"""Sessions in another process, which is told feeds line by line and answers so: JSON, tensors in base64.

    {"x": {"type": "float32", "shape": [1, 4], "data": ...}}  ──▶  {"outputs": {"y": {...}}}   or   {"error": ...}

The first line that it says is whether it has loaded the model.
"""

import base64
import contextlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxmpq.data.samples import InputSpec
from onnxmpq.disk.reading import brief
from onnxmpq.errors import VerifyError
from onnxmpq.runtimes.base import Feed, Session, check_feed, describe, unknown_outputs


class ChildSession:
    """A model that a process of its own has loaded, which ends with the session.

    ``command`` is given the path of the model at its end; ``plain`` knows inputs and outputs, ``name`` the runtime.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        model: bytes | Path,
        plain: Session,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process and wait until it has loaded the model."""
        self._name, self._plain = name, plain
        self._place = TemporaryDirectory()
        path = model if isinstance(model, Path) else Path(self._place.name) / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        self._process = subprocess.Popen(
            [*command, str(path.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=dict(environment) if environment is not None else None,
        )
        told = self._read()
        if "error" in told:
            self.close()
            raise VerifyError(f"{name} does not load {describe(model)}: {brief(told['error'], 300)}")

    def __del__(self) -> None:
        """Let the process go."""
        self.close()

    def close(self) -> None:
        """End the process."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
        if process is not None:
            process.stdout.close()
        self._place.cleanup()

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What a feed must have."""
        return self._plain.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names ``run`` gives when not told otherwise."""
        return self._plain.outputs

    def run(self, feed: Feed, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once; ``names`` picks some of the outputs."""
        wanted = self.outputs if names is None else tuple(names)
        if strange := [name for name in wanted if name not in self.outputs]:
            raise unknown_outputs(strange, self.outputs)
        check_feed(feed, self.inputs)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({name: _told(array) for name, array in feed.items()}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise VerifyError(f"{self._name} ended before it was given a sample.") from error
        found = self._read()
        if "error" in found:
            raise VerifyError(f"{self._name} could not run the model: {brief(found['error'], 300)}")
        return {name: _array(found["outputs"][name]) for name in wanted}

    def bind(self, feed: Feed) -> Callable[[], object]:
        """Give a function that runs once; its time is that of another process."""
        return lambda: self.run(feed)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"its process ended with code {self._process.wait()} and said nothing"}
        found: dict[str, Any] = json.loads(line)
        return found


def _told(array: np.ndarray) -> dict[str, Any]:
    return {
        "type": array.dtype.name,
        "shape": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def _array(told: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(told["data"]), np.dtype(told["type"])).reshape(told["shape"])
