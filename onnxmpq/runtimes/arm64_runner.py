"""Run under an emulator, by a Python for ARM64 that has numpy and onnxruntime and nothing of this package.

Every line of standard input is a feed, every line of standard output what came of it; tensors are base64.
"""

import base64
import json
import sys
from typing import Any

import numpy as np


def say(line: "dict[str, Any]") -> None:
    """Answer with one line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(path: str) -> None:
    """Load a model and run it on what comes."""
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
    except Exception as error:  # of many kinds: the parent says it
        say({"error": str(error)})
        return
    say({"loaded": names, "version": onnxruntime.__version__})
    for line in sys.stdin:
        feed = {
            name: np.frombuffer(base64.b64decode(one["data"]), one["type"]).reshape(one["shape"])
            for name, one in json.loads(line).items()
        }
        try:
            found = [np.asarray(array) for array in session.run(names, feed)]
        except Exception as error:  # of many kinds: the parent says it
            say({"error": str(error)})
            continue
        outputs = {
            name: {
                "type": array.dtype.name,
                "shape": list(array.shape),
                "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
            }
            for name, array in zip(names, found)  # noqa: B905 - any Python 3 may run this
        }
        say({"outputs": outputs})


if __name__ == "__main__":
    main(sys.argv[-1])
