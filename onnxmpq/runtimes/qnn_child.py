"""The process in which onnxruntime's provider for QNN opens one file: it may abort, and only this one then ends.

    in    (model, provider options, session entries)    then, any number of times    (names of outputs, feed)
    out   (True, (inputs, outputs))                     then                         (True, arrays)
          (False, message) where something is refused

Messages are pickled, between two processes of one user. The provider prints on standard output, so that answers go out
through a copy of it, and what else is printed goes the way of errors.
"""

import contextlib
import os
import pickle
import sys
from typing import IO, Any

PROVIDER = "qnn"
_NUMPY = {"float": "float32", "double": "float64", "string": "object"}


def main() -> None:
    """Open one file, then run it on what comes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    model, options, entries = pickle.load(questions)  # from the process that started this one
    try:
        session = open_session(model, options, entries)
        inputs = [(x.name, _dtype(x.type), tuple(x.shape)) for x in session.get_inputs()]
        _answer(answers, True, (inputs, [x.name for x in session.get_outputs()]))
    except Exception as error:  # the library's errors have no base of their own
        _answer(answers, False, _brief(error))
        return
    with contextlib.suppress(EOFError):
        while True:
            names, feed = pickle.load(questions)
            try:
                _answer(answers, True, session.run(list(names), feed))
            except Exception as error:  # as above
                _answer(answers, False, _brief(error))


def open_session(model: bytes | str, options: dict[str, str], entries: dict[str, str]) -> Any:
    """Open a file on one device of the provider, with no processor to fall back to."""
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        raise RuntimeError("the provider finds no device here")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 2
    for key, value in {"session.disable_cpu_ep_fallback": "1", **entries}.items():
        settings.add_session_config_entry(key, value)
    settings.add_provider_for_devices(devices[:1], {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **options})
    return onnxruntime.InferenceSession(model, settings, enable_fallback=0)


def _answer(answers: IO[bytes], fine: bool, what: object) -> None:
    pickle.dump((fine, what), answers)
    answers.flush()


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _dtype(kind: str) -> str:
    """Return numpy's name of a type of onnxruntime's."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return _NUMPY.get(name, name)


if __name__ == "__main__":
    main()
