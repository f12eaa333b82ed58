"""What commands print: progress on standard error, tables and JSON on standard output."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from onnxmpq.artifacts import FLOAT, Option, Verdict
from onnxmpq.cli.console import SafeConsole
from onnxmpq.cli.progress import progress

if TYPE_CHECKING:
    from onnxmpq.api import Result
    from onnxmpq.model.portions import Portions
    from onnxmpq.search.decide import Decision
    from onnxmpq.solve import Solution

__all__ = [
    "as_json",
    "counts",
    "decibel",
    "notes",
    "options",
    "out",
    "portions",
    "progress",
    "proof",
    "result",
    "size",
    "verdict_table",
]

out = SafeConsole(highlight=False)
WORTH_A_WORD = 0.01  # of the bytes of a file: text that was left out is told from here on


def as_json(data: Any) -> None:
    """Print data as JSON."""
    print(json.dumps(data, indent=2, default=str))


def size(count: int) -> str:
    """Write a number of bytes for people.

    >>> size(512), size(1_234_567)
    ('512 B', '1.23 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"


def result(found: "Result") -> None:
    """Print what a build gave, in a few lines."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    verdict = found.verdict
    table.add_row("file", f"[bold]{escape(str(found.path))}[/]  (plan: {escape(str(found.plan_path))})")
    share = found.file_bytes / found.float_file_bytes
    table.add_row("size", f"{size(found.float_file_bytes)} → [bold]{size(found.file_bytes)}[/]  ({share:.0%} of float)")
    if found.portions:
        table.add_row("bytes", portions(found.portions) + _left_out(found))
    if found.accuracy:
        a = found.accuracy
        table.add_row(
            "accuracy",
            f"{a.before:.2%} → [bold]{a.after:.2%}[/]  (difference {100 * (a.after - a.before):+.2f} ± "
            f"{100 * a.difference_error:.2f} points, {a.samples} samples)",
        )
    for check in verdict.checks:
        if check.name.startswith("speed") and check.value is not None:
            table.add_row(
                "speed", f"[bold]{check.value:.2f}×[/] {check.expected.removeprefix('times ')}  ({check.detail})"
            )
    table.add_row("verified", _verified(verdict))
    if found.decision is not None:
        for name, text in _searched(found, found.decision):
            table.add_row(name, text)
    out.print(table)
    notes(found.notes)


def portions(found: "Portions") -> str:
    """Write what the bytes of a file are.

    >>> from onnxmpq.model.portions import Portions
    >>> portions(Portions(400_000, 12_000, 0, 9_000, 0))
    '400 kB weights, 12 kB scales, 9 kB graph'
    """
    return ", ".join(f"{size(count)} {name}" for name, count in found.parts())


def _left_out(found: "Result") -> str:
    """Say how much text the file does not have any more, where that is worth a word."""
    if found.portions is None or found.float_portions is None:
        return ""
    gone = found.float_portions.text - found.portions.text
    told = f"  ({size(gone)} of text left out; --keep-metadata keeps it)"
    return told if gone > WORTH_A_WORD * found.file_bytes else ""


def notes(found: Sequence[str]) -> None:
    """Print what was noticed on the way."""
    for note in found:
        out.print(f"[yellow]note[/]  {escape(note)}", soft_wrap=True)


def _searched(found: "Result", decision: "Decision") -> Iterator[tuple[str, str]]:
    """Yield what a search found: the plan, its loss, the proof behind it and what it took."""
    chosen = Counter(found.plan.choices.get(unit.name, FLOAT) for unit in found.space.units)
    yield "plan", f"{counts(chosen)}  (by {decision.chosen})"
    loss = decision.loss
    yield "loss", f"[bold]{loss.value:.4g}[/] ± {loss.error:.2g} measured" + _against(loss.value, decision)
    if decision.proof is not None:
        yield "proof", proof(decision.proof)
    yield "search", f"{decision.runs:.1f} runs of the whole model on the samples, {decision.seconds:.1f} s"


def counts(chosen: Mapping[Option, int]) -> str:
    """Write how many units take each option, the finest first.

    >>> counts({Option(4, 8): 3, Option(8, 8): 1})
    '1 at w8a8, 3 at w4a8'
    """
    return ", ".join(f"{count} at {option}" for option, count in sorted(chosen.items(), key=_finest_first))


def proof(found: "Solution") -> str:
    """Write what was proved of a plan."""
    return (
        f"{found.status}: objective {found.objective:.4g}, none below {found.bound:.4g} in the model of the loss, "
        f"gap {found.gap:.2%}"
    )


def _against(measured: float, decision: "Decision") -> str:
    """Compare a measured loss with what was predicted, and with the best uniform plan of the same budgets."""
    text = ""
    if decision.predicted:
        text += f", {decision.predicted:.4g} predicted (ratio {measured / decision.predicted:.2f})"
    if decision.uniforms:
        name, (_, best) = min(decision.uniforms.items(), key=lambda item: item[1][1].value)
        text += f"; uniform {name}: {best.value:.4g}"
    return text


def _finest_first(item: tuple[Option, int]) -> tuple[int, int, Option]:
    option = item[0]
    return (-(option.weight_bits or 32), -(option.activation_bits or 32), option)


def _verified(verdict: Verdict) -> str:
    agreement, sqnr, kernels = (verdict[name].value for name in ("simulation", "sqnr", "kernels"))
    if verdict["simulation"].ok is None:
        return f"{verdict['kernels'].detail}; {decibel(sqnr)} to float"
    if kernels is None:
        return f"runs in {verdict.runtime}; {decibel(agreement)} to its simulation, {decibel(sqnr)} to float"
    return (
        f"runs in {verdict.runtime}: {kernels} low-bit kernels, {verdict['kernels'].detail}; "
        f"{decibel(agreement)} to its simulation, {decibel(sqnr)} to float"
    )


def decibel(value: Any) -> str:
    """Write a signal-to-noise ratio; no noise at all is infinite."""
    return "no difference" if value == float("inf") else f"{value:.1f} dB"


def options(found: Sequence[Option]) -> str:
    """Write options briefly, a run of widths as one.

    >>> options([Option(), Option(8, 8), Option(7, 8), Option(6, 8), Option(4, 0, 32)])
    'float w8-6a8 w4b32'
    """
    runs: dict[tuple[int, int], list[int]] = {}
    for option in found:
        if option.weight_bits:
            runs.setdefault((option.block, option.activation_bits), []).append(option.weight_bits)
    parts = [str(option) for option in found if not option.weight_bits]
    for (block, activation), bits in runs.items():
        full = max(bits) - min(bits) + 1 == len(bits) > 1
        widths = [f"{max(bits)}-{min(bits)}"] if full else [str(width) for width in bits]
        tail = (f"b{block}" if block else "") + (f"a{activation}" if activation else "")
        parts += [f"w{width}{tail}" for width in widths]
    return " ".join(parts)


def verdict_table(verdict: Verdict) -> None:
    """Print every check of a verdict."""
    table = Table("check", "", "value", "expected", "detail", title=f"in {verdict.runtime}", title_justify="left")
    for check in verdict.checks:
        mark = {True: "[green]ok[/]", False: "[red]failed[/]", None: ""}[check.ok]
        value = f"{check.value:.4g}" if isinstance(check.value, float) else f"{check.value}"
        table.add_row(check.name, mark, value, check.expected, escape(check.detail))
    out.print(table)
