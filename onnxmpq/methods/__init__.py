"""Methods: each names what to measure, how to choose a plan from it, and what to do after solving."""

METHODS: dict[str, str] = {
    "gram": "onnxmpq.methods.gram:Gram",
    "clado": "onnxmpq.methods.clado:Clado",
    "clado-star": "onnxmpq.methods.clado:CladoStar",
    "sqnr": "onnxmpq.methods.sqnr:Sqnr",
    "lampq": "onnxmpq.methods.lampq:Lampq",
    "local": "onnxmpq.methods.local:Local",
    "uniform": "onnxmpq.methods.level:Level",
}
"""Every method's class by its name; where it is, and not the class itself, so that what is not used is not loaded."""
