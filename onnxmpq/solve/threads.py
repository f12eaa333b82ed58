"""One thread for the small matrices of the solver.

Several threads of BLAS make an eigendecomposition of a few hundred rows slower, many times so on a busy machine, and
may sum in another order: with one, a seed gives one answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

from threadpoolctl import ThreadpoolController  # ships no types


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep linear algebra on one thread while the context lasts."""
    with _controller().limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    """Find the libraries that have threads: only what is loaded is found, and scipy brings one of its own."""
    import_module("scipy.linalg")
    return ThreadpoolController()
