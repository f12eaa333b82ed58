"""``python -m tests.fuzz``: damaged inputs of every kind through the commands, for a bounded time.

    python -m tests.fuzz --minutes 10                 what `make fuzz` does
    python -m tests.fuzz --kind models --only 4711    one mutant again, with what was said

Each mutant is a number: the same number gives the same mutant. Outcomes are counted by what they have in common. What
is broken is made as small as it gets and kept in out/fuzz, with the command that repeats it.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy: children are forked from one thread
    os.environ[name] = "1"
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from tests.fuzz.children import Outcome  # noqa: E402
from tests.fuzz.kinds import KINDS, Kind, Recipe, preload  # noqa: E402

OUT = Path("out/fuzz")


def work(worker: int, of: int, kinds: list[str], start: int, until: float, file: Path, folder: Path) -> None:
    """Try every ``of``-th number until the time is over; write one line for each."""
    preload()
    with file.open("w") as lines:
        number = start + worker
        while time.time() < until:
            kind = KINDS[kinds[(number // of) % len(kinds)]]
            outcome = kind.outcome(number, folder)
            line = {"kind": kind.name, "number": number, "label": outcome.label, "good": outcome.good}
            lines.write(json.dumps(line | {"code": outcome.code}) + "\n")
            lines.flush()
            number += of


def kept(kind: Kind, number: int, folder: Path) -> Path:
    """Make a broken mutant as small as it gets, and keep its files and what was said."""
    outcome = kind.outcome(number, folder)
    recipe = kind.recipe(number)
    smaller = True
    while smaller and not outcome.good:
        smaller = False
        for index in range(len(recipe.changes)):
            fewer = recipe.without(index)
            tried = kind.tried(fewer, folder)
            if tried.label == outcome.label:
                recipe, outcome, smaller = fewer, tried, True
                break
    place = OUT / f"{kind.name}-{number}"
    place.mkdir(parents=True, exist_ok=True)
    kind.make(recipe, place)
    (place / "told.txt").write_text(f"{recipe}\n{outcome.kind} {outcome.code}\n{outcome.told}")
    return place


def main() -> int:
    """Fuzz, print the counts, and end with 1 if anything is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument(
        "--each", type=int, help="so many mutants of each kind, and what is not damaged, instead of a time"
    )
    parser.add_argument("--only", type=int, help="one number, and what was said")
    given = parser.parse_args()
    kinds = given.kind or list(KINDS)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name)
        if given.only is not None:
            preload()
            kind = KINDS[kinds[0]]
            outcome = kind.outcome(given.only, base / "one")
            print(kind.recipe(given.only), outcome.label, outcome.told, sep="\n")
            return not outcome.good
        if given.each is not None:
            preload()
            return _told([*_sound(kinds, base), *_some(kinds, given.seed, given.each, base)], base)
        print(f"seed {given.seed}, {given.workers} workers, {given.minutes:g} minutes: {', '.join(kinds)}", flush=True)
        until = time.time() + 60 * given.minutes
        files = [base / f"{worker}.jsonl" for worker in range(given.workers)]
        children = []
        for worker, file in enumerate(files):
            child = os.fork()
            if not child:
                code = 1
                try:
                    work(worker, given.workers, kinds, given.seed, until, file, base / f"w{worker}")
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)  # what the parent does at its end is not the worker's to do
            children.append(child)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        if failed:
            print(f"{len(failed)} of {given.workers} workers failed")
        return _told(lines, base) or bool(failed)


def _line(kind: Kind, number: int, outcome: Outcome, good: bool) -> dict[str, object]:
    return {"kind": kind.name, "number": number, "label": outcome.label, "good": good, "code": outcome.code}


def _some(kinds: list[str], seed: int, each: int, base: Path) -> Iterator[dict[str, object]]:
    """Try some mutants of each kind."""
    for kind in (KINDS[name] for name in kinds):
        for number in range(seed, seed + each):
            outcome = kind.outcome(number, base / "one")
            yield _line(kind, number, outcome, outcome.good)


def _sound(kinds: list[str], base: Path) -> Iterator[dict[str, object]]:
    """Try every command on what is not damaged, which must go through."""
    for kind in (KINDS[name] for name in kinds):
        for command in kind.commands:
            outcome = kind.tried(Recipe(next(iter(kind.bases())), (), 1, command), base / "one")
            yield _line(kind, 0, outcome, outcome.good and not outcome.code)


def _told(lines: list[dict[str, object]], base: Path) -> int:
    """Print what came out, and keep what is broken."""
    by_kind = Counter((line["kind"], line["code"] if line["good"] else "broken") for line in lines)
    for kind in dict.fromkeys(line["kind"] for line in lines):
        counts = ", ".join(f"{code}: {count:,}" for (k, code), count in sorted(by_kind.items(), key=str) if k == kind)
        print(f"{kind:10} {sum(c for (k, _), c in by_kind.items() if k == kind):6,} mutants   {counts}")
    broken: dict[object, list[dict[str, object]]] = {}
    for line in lines:
        if not line["good"]:
            broken.setdefault(line["label"], []).append(line)
    for label, found in sorted(broken.items(), key=lambda item: -len(item[1])):
        first = found[0]
        place = kept(KINDS[str(first["kind"])], int(str(first["number"])), base / "smaller")
        print(f"{len(found):5,} × {label}\n        {place}")
    if not broken:
        print("nothing is broken")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
