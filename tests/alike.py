"""``python -m tests.alike BEFORE AFTER``: two checkouts give the same plans, tables and files, bit by bit.

Every command below is run by either checkout, in folders of one name, and what they write is compared. Left out is
what no two runs have in common: seconds, and the verdict's speeds; and keys of JSON that ``--leave-out`` names, which
one of them has by intent. ``--zoo`` adds the models of a folder laid out as ``benchmarks.zoo`` says. Exit code 1 where
anything differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_SAMPLES = ("--samples", "8")
_QUICK = (*_SAMPLES, "--effort", "quick", "--allow-slower")
_METHODS = ("gram", "clado", "clado-star", "sqnr", "lampq", "local")
_TIMED = ("speed", "speed_f32")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, its samples, and whether whole searches are run on it."""

    name: str
    model: Path
    data: Path
    searched: bool = True


def commands(subject: Subject) -> Iterator[tuple[str, ...]]:
    """Yield what is run on a model: every stage that writes something, on every target."""
    model, data = str(subject.model), ("-c", str(subject.data))
    yield "inspect", model, "--json"
    for target in ("ort-cpu", "openvino", "generic"):
        for option in ("w8a8", "w4a8", "w4b32"):
            name = f"{target}.{option}.onnx"
            yield (
                *("quantize", model, *data, "-o", name, "--target", target, "--option", option, "--json"),
                *("--allow-slower", "--as-asked"),
            )
    yield "quantize", model, *data, "-o", "gptq.onnx", "--option", "w4a8", "--rounding", "gptq", "--as-asked"
    yield "measure", model, *data, "-o", "table.json", "--options", "w8a8,w4a8,w2a8", *_SAMPLES
    yield "overrides", model, "gptq.plan.json", *data, "-o", "overrides.json"
    yield "apply", model, "gptq.plan.json", *data, "-o", "applied.onnx"
    if subject.searched:
        yield "pareto", model, *data, "-o", "front.json", "--report", "page.html", *_SAMPLES
        for method in _METHODS:
            yield (
                *("quantize", model, *data, "-o", f"{method}.onnx", "-b", "size=40%", "--method", method, "--json"),
                *_QUICK,
            )
        yield "quantize", model, *data, "-o", "drop.onnx", "-b", "drop=5%", "--json", *_QUICK


def run(checkout: Path, folder: Path, arguments: tuple[str, ...]) -> tuple[int, str]:
    """Run a command with the code of a checkout; return how it ended and what it printed."""
    paths = os.pathsep.join((str(checkout), str(checkout / "passes")))
    ended = subprocess.run(
        [sys.executable, "-m", "onnxmpq", *arguments, "-q"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"},
        cwd=folder,
        check=False,
    )
    return ended.returncode, ended.stdout if "--json" in arguments or ended.returncode else ""


def outcome(checkout: Path, subject: Subject, place: Path, left_out: frozenset[str]) -> dict[str, bytes]:
    """Return all that a checkout writes and prints of a model, by its name; what is timed is left out."""
    folder = place / "work"
    folder.mkdir()
    found: dict[str, bytes] = {}
    for arguments in commands(subject):
        code, printed = run(checkout, folder, arguments)
        output = arguments[arguments.index("-o") + 1] if "-o" in arguments else "nothing"
        label = f"{arguments[0]} to {output}"
        found[f"exit code of {label}"] = str(code).encode()
        found[f"what {label} prints"] = printed.encode() if code else untimed(printed.encode(), left_out)
    for file in sorted(folder.iterdir()):
        if file.suffix != ".html":  # the same numbers as in the JSON beside it, and times
            data = file.read_bytes()
            found[file.name] = untimed(data, left_out) if file.suffix == ".json" else data
    shutil.rmtree(folder)
    return found


def untimed(data: bytes, left_out: frozenset[str] = frozenset()) -> bytes:
    """Return JSON without what a clock has said, and without some keys."""
    return json.dumps(_untimed(json.loads(data), left_out), sort_keys=True).encode() if data.strip() else data


def _untimed(value: Any, left_out: frozenset[str]) -> Any:
    if isinstance(value, dict):
        if value.get("name") in _TIMED:
            return value["name"]
        kept = (key for key in value if "seconds" not in key and key not in _TIMED and key not in left_out)
        return {key: _untimed(value[key], left_out) for key in kept}
    return [_untimed(inner, left_out) for inner in value] if isinstance(value, list) else value


def subjects(zoo: Path | None, searched: list[str]) -> Iterator[Subject]:
    """Yield the embedded models, and those of a folder that are small enough or asked for."""
    data = ROOT / "models" / "digits_calibration.npz"
    for name in ("digits_cnn", "digits_vit"):
        yield Subject(name, ROOT / "models" / f"{name}.onnx", data)
    if zoo is not None:
        for model in sorted((zoo / "models").glob("*.onnx")):
            file = zoo / "samples" / f"{model.stem}.npz"
            samples = file if file.is_file() else file.with_suffix("")  # a folder, one file a sample
            if samples.exists():
                yield Subject(model.stem, model, samples, model.stem in searched)


def main() -> int:
    """Compare two checkouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--zoo", type=Path, help="a folder with models/NAME.onnx and samples/NAME.npz or samples/NAME/")
    parser.add_argument("--searched", default="", help="models of it on which whole searches are run, too")
    parser.add_argument("--only", default="", help="names of the models to compare, all by default")
    parser.add_argument("--leave-out", default="", help="keys of JSON that one of them has by intent")
    given = parser.parse_args()
    left_out = frozenset(given.leave_out.split(","))
    only, differing = given.only.split(",") if given.only else [], 0
    with tempfile.TemporaryDirectory() as name:
        for subject in subjects(given.zoo, given.searched.split(",")):
            if only and subject.name not in only:
                continue
            before, after = (
                outcome(path.resolve(), subject, Path(name), left_out) for path in (given.before, given.after)
            )
            unlike = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
            failed = [key for key, value in after.items() if key.startswith("exit code") and value != b"0"]
            print(f"{subject.name}: {len(after)} compared, {len(unlike)} differ, {len(failed)} failed", flush=True)
            for key in failed:
                print(f"    {key} is {after[key].decode()}")
            for key in unlike:
                print(f"    {key}: {len(before.get(key, b''))} bytes before, {len(after.get(key, b''))} after")
            differing += len(unlike)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
