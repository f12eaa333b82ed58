"""What commands load late and look up, loaded and looked up at once, by a process whose children commands are."""

import gc
from importlib import import_module

COMMANDS = "apply diagnose inspect measure overrides own_process pareto quantize report show solve store targets verify"
LATE = (
    *("onnxruntime", "highspy", "networkx", "scipy.linalg", "scipy.sparse", "rich._emoji_codes", "faulthandler"),
    *(f"onnxmpq.cli.{name}" for name in COMMANDS.split()),
    *(f"onnxmpq.{name}" for name in ("api", "exchange.overrides", "exchange.plans", "report.page", "report.record")),
    *(f"onnxmpq.{name}" for name in ("report.write", "search.from_table", "search.front", "sensitivity.engine")),
    *("onnxmpq.sensitivity.stored.store", "onnxmpq.verification.requirements", "onnxmpq.runtimes.ort"),
)


def load() -> None:
    """Load all of it; nothing of it starts a thread. Children need not look through it for garbage either."""
    from onnxmpq.model.passes import pipeline
    from onnxmpq.registry import BUDGETS, CARRIERS, METHODS
    from onnxmpq.targets import names, target

    for name in LATE:
        import_module(name)
    for registry in (BUDGETS, CARRIERS, METHODS):
        for name in registry.names():
            registry.load(name)
    for name in names():
        target(name)
    pipeline("normalise")
    gc.freeze()
