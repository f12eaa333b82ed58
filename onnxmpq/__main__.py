"""``python -m onnxmpq``: the command line."""

from onnxmpq.cli import entry

if __name__ == "__main__":
    entry()
