"""Measures exports of onnxmpq beside those of onnxruntime's own quantisers: ``python -m benchmarks deploy``."""
