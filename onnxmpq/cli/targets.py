"""``onnxmpq targets``."""

from dataclasses import asdict

import click
from rich import box
from rich.markup import escape
from rich.table import Table

from onnxmpq.cli import show, words
from onnxmpq.cli.shared import json_option
from onnxmpq.targets import CarrierName, LayerRule, Target, names
from onnxmpq.targets import target as find_target


@click.command("targets")
@click.argument("name", required=False, shell_complete=words.complete_target)
@json_option
def targets_command(name: str | None, as_json: bool) -> None:
    """List the targets, or explain the one called NAME (or a .toml file of your own)."""
    if name is None:
        listing(as_json)
        return
    found = find_target(name)
    if as_json:
        show.as_json(asdict(found))
    else:
        explain(found)


def listing(as_json: bool) -> None:
    """Print all targets that are installed."""
    found = [find_target(name) for name in names()]
    if as_json:
        show.as_json([{"name": t.name, "title": t.title, "runtime": t.runtime, "proof": t.proof} for t in found])
        return
    table = Table("target", "what it is", "runtime", "proof")
    for target in found:
        table.add_row(target.name, target.title, target.runtime, target.proof)
    show.out.print(table)
    show.out.print("`onnxmpq targets NAME` explains one; a .toml file of your own is used by its path.")


def explain(target: Target) -> None:
    """Print what a target runs and where Q/DQ stand."""
    limits = target.limits
    show.out.print(f"[bold]{target.name}[/]: {escape(target.title)}")
    show.out.print(f"Proof: {_proof(target)}.")
    opsets = f"opset {limits.lowest_opset} to {limits.highest_opset}"
    show.out.print(f"Files: {opsets}, IR up to {limits.highest_ir}, written as {target.dialect}.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("layer", "options", "activations", "Q/DQ", "bias", "codes stored as", "remark"):
        table.add_column(column, min_width=max(map(len, column.split())), overflow="fold")
    for rule in target.layers:
        quantised = any(option.activation_bits for option in rule.options)
        table.add_row(
            _layers(rule),
            show.options(rule.options),
            rule.activation if quantised else "float",
            _placement(rule) if quantised else "",
            rule.bias if quantised else "float",
            _carriers(rule),
            escape(rule.why),
        )
    show.out.print(table)
    if target.followers:
        names = ", ".join(rule.op for rule in target.followers)
        show.out.print(f"Run on codes between quantised layers: {names}.")
    if target.converts:
        show.out.print("A tensor that is read in another type than its producer gives is converted.")
    if target.static_shapes:
        show.out.print("Shapes must be fixed: --pass fix-shapes does so.")
    if target.passes:
        show.out.print(f"Models go through: {', '.join(target.passes)}.")
    if target.islands:
        form = {
            "vector": "gets a DequantizeLinear of its own, so that it stays float",
            "half": "computes in half precision between Casts",
        }
        show.out.print(f"A float layer between quantised ones {form[target.island]}.")
    for note in target.notes:
        show.out.print(escape(note))


def _proof(target: Target) -> str:
    """Say how far it is proved that files are right."""
    from onnxmpq.filerules.base import file_rules

    match target.proof:
        case "run":
            told = f"files are run in {target.runtime}"
        case "emulated":
            told = f"files are run in {target.runtime} on an emulator of the machine"
        case "rules":
            told = f"{len(file_rules(target.rules).rules)} rules are checked on files, and their numbers simulated"
        case _:
            told = "files are simulated; nothing of their runtime is shown"
    if target.proof in ("run", "emulated") and target.rules:
        told += f", and {len(file_rules(target.rules).rules)} rules checked on them"
    return told + (f"; without {target.runtime} here they are simulated" if target.stand_in else "")


def _layers(rule: LayerRule) -> str:
    which = [*rule.groupings, *([f"from {rule.least_channels} channels"] if rule.least_channels else ())]
    return f"{rule.op} ({', '.join(which)})" if which else rule.op


def _placement(rule: LayerRule) -> str:
    return "inputs and output" if rule.output == "quantised" else "inputs"


def _carriers(rule: LayerRule) -> str:
    forms: dict[CarrierName, list[str]] = {}
    for option in rule.options:
        carrier = rule.carrier(option)
        if carrier and option.weight_bits in (8, 4, 2):
            forms.setdefault(carrier, []).append(str(option))
    return "; ".join(f"{carrier}: {' '.join(names)}" for carrier, names in forms.items())
