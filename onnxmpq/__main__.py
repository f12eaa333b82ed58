"""``python -m onnxmpq``: the command line."""

from onnxmpq.cli import main

if __name__ == "__main__":
    main()
