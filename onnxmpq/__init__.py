"""onnxmpq: a precision of its own for every layer of an exported ONNX model."""

__version__ = "0.1.0"
