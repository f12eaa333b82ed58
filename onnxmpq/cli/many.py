"""What ``onnxmpq quantize --target a,b`` prints: a row for each target, then what each could not keep."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show
from onnxmpq.cli.retarget import lines
from onnxmpq.errors import OnnxmpqError, VerifyError

if TYPE_CHECKING:
    from onnxmpq.api import Result
    from onnxmpq.for_targets import ForTarget


def shown(found: "Sequence[ForTarget]") -> None:
    """Print what came of every target."""
    table = Table("target", "file", "size", "proof", "what it does to the outputs", title_justify="left")
    for one in found:
        if one.result is None:
            table.add_row(one.target, "[red]none[/]", "", "", escape(str(one.error)))
            continue
        result = one.result
        size = f"{show.size(result.file_bytes)} ({result.file_bytes / result.float_file_bytes:.0%})"
        proof = result.verdict["proof"]
        table.add_row(one.target, escape(result.path.name), size, str(proof.value), escape(_damage(result)))
    show.out.print(table)
    for one in found:
        for line in lines(one.retargeted) if one.retargeted else ():
            show.out.print(escape(line), soft_wrap=True)
    show.notes(list(_notes(found)))


def refuse(found: "Sequence[ForTarget]") -> None:
    """Raise an error where a target has no file."""
    failed = [one for one in found if one.error is not None]
    if failed:
        told = "; ".join(f"{one.target}: {one.error}" for one in failed)
        kind: type[OnnxmpqError] = type(failed[0].error) if len(failed) == 1 and failed[0].error else VerifyError
        raise kind(f"{len(failed)} of {len(found)} targets have no file. {told}")


def _damage(result: "Result") -> str:
    """Say what a file does to the outputs of the float model, on the samples."""
    accuracy = result.accuracy
    told = f"accuracy {accuracy.before:.2%} → {accuracy.after:.2%}" if accuracy else ""
    damage = str(result.judgement.damage) if result.judgement else ""
    return "; ".join(part for part in (told, damage) if part)


def _notes(found: "Sequence[ForTarget]") -> Iterator[str]:
    """Yield every note once, with the targets that it is of."""
    by_note: dict[str, list[str]] = {}
    for one in found:
        for note in one.result.notes if one.result else ():
            by_note.setdefault(note, []).append(one.target)
    for note, targets in by_note.items():
        yield note if len(targets) == len(found) else f"{', '.join(targets)}: {note}"
