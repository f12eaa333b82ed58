"""The version of onnxmpq, which files and stores carry."""

__version__ = "0.1.0"
