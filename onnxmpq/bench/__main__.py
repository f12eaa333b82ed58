"""``python -m onnxmpq.bench``: the benchmarks, one command each."""

import click

from onnxmpq.bench.accuracy import accuracy
from onnxmpq.bench.deploy import deploy
from onnxmpq.bench.drop import drop
from onnxmpq.bench.guard import guard
from onnxmpq.bench.measure import measure
from onnxmpq.bench.memory import memory
from onnxmpq.bench.methods import methods
from onnxmpq.bench.pairs import pairs
from onnxmpq.bench.processors import processors
from onnxmpq.bench.rounding import rounding
from onnxmpq.bench.solve import solve
from onnxmpq.bench.worst import worst


@click.group()
def main() -> None:
    """Benchmarks of onnxmpq."""


main.add_command(deploy)
main.add_command(accuracy)
main.add_command(measure)
main.add_command(methods)
main.add_command(drop)
main.add_command(rounding)
main.add_command(pairs)
main.add_command(worst)
main.add_command(processors)
main.add_command(guard)
main.add_command(memory)
main.add_command(solve)

if __name__ == "__main__":
    main(prog_name="python -m onnxmpq.bench")
