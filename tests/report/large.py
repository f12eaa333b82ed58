"""Makes reports of large models, in a process of its own, and prints what they took: python -m tests.report.large."""

import json
import re
import sys
import tracemalloc
from pathlib import Path
from time import perf_counter

from onnxmpq.artifacts import Estimate
from onnxmpq.report.plans import Measured
from onnxmpq.report.write import Written, write_report
from tests.report import made

UNITS = 2000
TRACED = (150, 600)  # tracing takes many times as long
TRIED = 40


def written(units: int, folder: Path, *, traced: bool = False) -> Written:
    """Write a report of units at four options each; trace the memory of that and not of what it is made from."""
    space = made.space(units, made.FOUR)
    table, result, front = made.table(space, errors=False), made.result(space), made.front(space)
    tried = [Measured("tried", Estimate(0.3 + n / 100, 0.01), choices=made.choices(space, n)) for n in range(TRIED)]
    if traced:
        tracemalloc.start()
    return write_report(result, folder, front=front, table=table, others=tried)


def main() -> None:
    """Write the large report into one folder, then trace the memory of two smaller ones, written into another."""
    folder, beside = Path(sys.argv[1]), Path(sys.argv[2])
    began = perf_counter()
    written(UNITS, folder)
    seconds = perf_counter() - began
    # Unlike ru_maxrss this is not that of the process which started this one.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    traced = []
    for units in TRACED:
        written(units, beside, traced=True)
        traced.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(json.dumps({"seconds": seconds, "peak": 1024 * int(peak[1]) if peak else None, "traced": traced}))


if __name__ == "__main__":
    main()
