"""``python -m benchmarks``: the benchmarks, one command each."""

import click

from benchmarks.accuracy import accuracy
from benchmarks.aimet import aimet
from benchmarks.clock import clock
from benchmarks.deploy import deploy
from benchmarks.detector import detector
from benchmarks.device import device
from benchmarks.drop import drop
from benchmarks.guard import guard
from benchmarks.latency import latency
from benchmarks.measure import measure
from benchmarks.memory import memory
from benchmarks.methods import methods
from benchmarks.nbits import nbits
from benchmarks.outliers import outliers
from benchmarks.pairs import pairs
from benchmarks.processors import processors
from benchmarks.rounding import rounding
from benchmarks.schedule import schedule
from benchmarks.search import search
from benchmarks.solve import solve
from benchmarks.table import table
from benchmarks.worst import worst


@click.group()
def main() -> None:
    """Benchmarks of onnxmpq."""


main.add_command(deploy)
main.add_command(accuracy)
main.add_command(measure)
main.add_command(device)
main.add_command(methods)
main.add_command(detector)
main.add_command(drop)
main.add_command(rounding)
main.add_command(search)
main.add_command(aimet)
main.add_command(table)
main.add_command(clock)
main.add_command(schedule)
main.add_command(outliers)
main.add_command(pairs)
main.add_command(worst)
main.add_command(processors)
main.add_command(guard)
main.add_command(latency)
main.add_command(nbits)
main.add_command(memory)
main.add_command(solve)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
