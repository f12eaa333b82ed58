"""Sessions whose values stay where they run: what one gives the next one takes, and nothing is copied between.

    Place("cuda", 0)                         where: a kind of device that onnxruntime knows, and its number
    held(array, place)                       puts an array there
    BoundSession(session, place).run(feed)   takes what is there, and leaves there what it gives

On ``Place("cpu", 0)`` the same code runs on the processor's own memory.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxmpq.errors import VerifyError
from onnxmpq.runtimes.base import one_line, quiet_stderr
from onnxmpq.runtimes.ort import OrtSession, ort_value

_INTEGERS = frozenset(f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32))
FLOATS = frozenset(("tensor(float)", "tensor(float16)", "tensor(double)"))
_HERE = "tensor(int64)"
"""What stays in the processor's memory: shapes and indices, few numbers that shape operators want there."""
_BOUND = FLOATS | _INTEGERS | {"tensor(bool)", _HERE}
"""Types that onnxruntime binds; a session with any other input or output runs on arrays."""


class Place(NamedTuple):
    """A device as onnxruntime names it."""

    kind: str
    number: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that onnxruntime holds, and the session that made it, in whose memory it may lie."""

    value: Any
    session: OrtSession | None = None

    @property
    def is_float(self) -> bool:
        """Tell whether its numbers are floats."""
        return self.value.data_type() in FLOATS

    def array(self) -> npt.NDArray[Any]:
        """Bring it to the processor's memory."""
        found: npt.NDArray[Any] = self.value.numpy()
        return found


Value = npt.NDArray[Any] | Tensor
"""What sessions take and give: a tensor on a device, or an array where the device cannot hold it."""


def held(value: Value, place: Place) -> Tensor:
    """Return an array as a tensor on a device, a tensor as it is."""
    return value if isinstance(value, Tensor) else Tensor(ort_value(value, *_home(value, place)))


def as_array(value: Value) -> npt.NDArray[Any]:
    """Return a value as an array."""
    return value.array() if isinstance(value, Tensor) else value


def can_be_held(value: object) -> bool:
    """Tell whether onnxruntime holds an array on a device."""
    return isinstance(value, np.ndarray) and (value.dtype.kind in "iub" or value.dtype in ("f2", "f4", "f8"))


def _home(array: npt.NDArray[Any], place: Place) -> Place:
    return Place("cpu", 0) if array.dtype == np.int64 else place


class BoundSession:
    """A session that takes and gives tensors on a device."""

    def __init__(self, session: OrtSession, place: Place) -> None:
        self._session, self._place = session, place
        inputs, outputs = session.native.get_inputs(), {x.name: x.type for x in session.native.get_outputs()}
        self._binds = {x.type for x in inputs} | set(outputs.values()) <= _BOUND
        self._outputs = [(name, Place("cpu", 0) if outputs[name] == _HERE else place) for name in session.outputs]
        self._first = True

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return self._session.outputs

    def run(self, feed: Mapping[str, Value], names: Sequence[str] | None = None) -> dict[str, Value]:
        """Run once; ``names`` picks some of the outputs."""
        quiet = self._first and not os.environ.get("ONNXMPQ_LOG")  # cuDNN's remarks on plans that it tries, by hundreds
        with quiet_stderr() if quiet else nullcontext():
            given = self._bound(feed) if self._binds else self._on_arrays(feed)
        self._first = False
        return given if names is None else {name: given[name] for name in names}

    def _on_arrays(self, feed: Mapping[str, Value]) -> dict[str, Value]:
        """Run on arrays, and put on the device what it holds of what comes out.

        What else comes out may have the memory of an input: an Optional has, in onnxruntime 1.32.
        """
        given = self._session.run({name: as_array(value) for name, value in feed.items()})
        return {
            name: held(array, self._place) if can_be_held(array) else deepcopy(array) for name, array in given.items()
        }

    def _bound(self, feed: Mapping[str, Value]) -> dict[str, Value]:
        """Run on what is on the device; a binding of its own each time, since shapes may differ."""
        native = self._session.native
        binding = native.io_binding()
        try:
            for name, value in feed.items():
                binding.bind_ortvalue_input(name, held(value, self._place).value)
            for name, place in self._outputs:
                binding.bind_output(name, *place)
            binding.synchronize_inputs()  # of what is in the processor's memory a copy may be on its way
            native.run_with_iobinding(binding)
        except Exception as error:  # the library's errors have no base of their own
            raise VerifyError(
                f"onnxruntime could not run the model on the device '{':'.join(map(str, self._place))}': "
                f"{one_line(error)} Where its memory ran out, give a lower --memory."
            ) from error
        return {
            name: Tensor(value, self._session) for name, value in zip(self.outputs, binding.get_outputs(), strict=True)
        }
