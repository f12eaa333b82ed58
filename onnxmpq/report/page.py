"""One page of HTML that holds everything: numbers, figures, styles and the library that draws them.

Figures are drawn by Observable Plot and D3, which lie in ``assets`` with their licences. Text and tables are written
here, so that they can be read where scripts do not run. The page's own policy forbids it to load anything.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from string import Template

from onnxmpq.artifacts import Check, Estimate
from onnxmpq.report.figures import Alone, Pair, PlanFigures, Proof, Summary, Unquantised, View

LIBRARY = ("d3.min.js", "plot.umd.min.js")
CHOICES = 60_000  # options of plans in a page, of some 8 bytes each: of 2,000 units those of 30 plans
EXACT = 4000  # units alone at an option whose figures a page has to the last digit; of more it has as many as it tells
ROWS = 100  # of a list that are seen at once; further ones are folded away
_PLANS = '<label>plan shown <select class="plans"></select></label>'
_PICKED = '<output class="picked"></output>'
ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def make_page(view: View) -> str:
    """Return the page as text."""
    return Template(_asset("page.html")).substitute(
        title=escape(view.title),
        version=escape(view.version),
        style=_asset("page.css"),
        sections="\n".join(_sections(view)),
        licences=_asset("LICENCES.txt"),
        numbers=_for_script(replace(view, plans=_with_fewer_choices(view.plans), alone=_with_fewer_digits(view.alone))),
        library="\n".join(map(_asset, LIBRARY)),
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return files("onnxmpq.report").joinpath("assets", name).read_text(encoding="utf-8").strip()


def _for_script(view: View) -> str:
    """Return the numbers as JSON in which no name can end the element that holds it."""
    text = json.dumps(view.to_json(), allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPED)


def _with_fewer_choices(plans: Sequence[PlanFigures]) -> tuple[PlanFigures, ...]:
    """Leave out the options of plans beyond what a page can hold: the first stays, then what no smaller plan beats."""
    known = [number for number, plan in enumerate(plans) if plan.options]
    if sum(len(plans[number].options) for number in known) <= CHOICES:
        return tuple(plans)
    best, beaten = float("inf"), set()
    for number in sorted(known, key=lambda number: (plans[number].file_bytes, plans[number].loss.value)):
        if plans[number].loss.value >= best:
            beaten.add(number)
        best = min(best, plans[number].loss.value)
    order = sorted(known, key=lambda number: (number > 0, number in beaten, plans[number].loss.value))
    kept = order[: max(CHOICES // len(plans[known[0]].options), 1)]
    return tuple(plan if number in kept else replace(plan, options=()) for number, plan in enumerate(plans))


def _with_fewer_digits(alone: Sequence[Alone]) -> tuple[Alone, ...]:
    """Round what units lose alone to six digits where a page has many of them; figures show four."""
    if len(alone) <= EXACT:
        return tuple(alone)
    return tuple(
        replace(
            one,
            loss=Estimate(_rounded(one.loss.value), _rounded(one.loss.error)),
            predicted=_rounded(one.predicted),
            local=_rounded(one.local),
            sqnr_db=_rounded(one.sqnr_db),
        )
        for one in alone
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _sections(view: View) -> Iterator[str]:
    """Yield the sections that the numbers allow."""
    yield _section("summary", "What came out", "", '<div class="tiles">', *_tiles(view), "</div>")
    if view.notes:
        yield _section("notes", "Notes", "", "<ul>", *(f"<li>{escape(note)}</li>" for note in view.notes), "</ul>")
    yield from _of_plans(view)
    yield from _of_units(view)
    yield from _of_the_file(view)
    if view.command:
        yield _section("command", "The same again", "", f"<pre>{escape(view.command)}</pre>")


def _of_plans(view: View) -> Iterator[str]:
    """Yield all plans by loss and size, and one of them unit by unit."""
    if any(plan.kind != "chosen" for plan in view.plans):
        yield _section(
            "front",
            "Loss and size of the plans that were measured",
            "Every point is a plan, measured as a whole, with its standard error over the samples. Pick one to see it "
            "below. The dashed line is the size of the file that was written." + _unpicked(view.plans),
            *(_controls(_PLANS), _figure("front"), _PICKED),
        )
    if len({unit.op for unit in view.units}) > 1:
        yield f'<div id="filter" class="controls">{_select("units shown", "op")}</div>'
    if view.units and (view.chosen or view.plans):
        yield _section(
            "bits",
            "Bits of every unit, and the bytes behind them",
            "A unit is one decision: a layer, or several that share a weight. Grey units stay float.",
            *(_controls(_PLANS), _PICKED, _figure("bits"), _details("the units as a table", _unit_table())),
        )


def _of_units(view: View) -> Iterator[str]:
    """Yield what was measured of units alone and together, and how well it foresaw the rest."""
    if view.alone:
        yield _section(
            "alone",
            "Sensitivity: every unit alone",
            f"The loss {view.summary.loss_name} with one unit at one option and all others as they were, with its "
            "standard error.",
            *(_controls(_select("order", "alone-order")), _figure("alone")),
            *([] if view.plans else [_details("the largest losses as a table", _alone(view.alone))]),
        )
    if view.maps:
        yield _section(
            "map",
            "Interactions: which units err alike",
            "How far what two units do to the outputs points the same way: red adds up, blue cancels, and without "
            "colour they do not touch one another." + _unmapped(view),
            *(_controls(_select("options", "map-of"), _select("order", "map-order")), _figure("map")),
            '<output id="map-cell">Point at a cell to read it.</output>',
            _details("the strongest pairs", _pairs(view.pairs), shown=True),
        )
    if view.alone or view.guesses:
        yield _section(
            "guesses",
            "Prediction against measurement",
            "The model of the loss, linear and quadratic in what every unit does to the outputs, beside what was "
            "measured. On the dashed line it is right.",
            _figure("guesses"),
        )


def _of_the_file(view: View) -> Iterator[str]:
    """Yield what is in the file, what a runtime does with it, and how good its plan is at most."""
    if view.portions:
        yield _section(
            "bytes",
            "What the bytes of the file are",
            "Text is doc strings, metadata and types that a runtime infers; the graph is all that holds the "
            "parts together.",
            _portions(view),
        )
    if view.unquantised:
        yield _section("unquantised", "What stays float, and why", "", _unquantised(view.unquantised))
    if view.checks:
        yield _section("checks", f"What {view.summary.runtime} really does with the file", "", _checks(view.checks))
    if view.proof is not None:
        yield _section(
            "proof",
            "The proof",
            f"In the model of the loss no plan within the budgets is below {view.proof.bound:.6g}; the one that was "
            f"taken has {view.proof.objective:.6g}. What the model misses shows under prediction against measurement.",
            _proof(view.proof),
        )


def _unpicked(plans: Sequence[PlanFigures]) -> str:
    """Say that some plans cannot be picked, where a page does not hold the options of all."""
    left_out = sum(a.options != b.options for a, b in zip(plans, _with_fewer_choices(plans), strict=True))
    if not left_out:
        return ""
    return (
        f" Of {len(plans):,} plans, {left_out:,} cannot be picked: their options are left out here and are in the JSON "
        "beside this file."
    )


def _unmapped(view: View) -> str:
    """Say how many units the maps leave out, where they do."""
    measured = Counter(one.option for one in view.alone)
    cuts = [(measured[found.name] - len(found.units), found.name) for found in view.maps if found.name in measured]
    left_out, option = max(cuts, default=(0, ""))
    if not left_out:
        return ""
    whole = measured[option]
    return (
        f" A map has at most {whole - left_out:,} units: of {whole:,} at {option}, {left_out:,} are left out, those "
        "whose own part in the model of the loss is smallest. The pairs below are of all units."
    )


def _section(name: str, heading: str, lead: str, *parts: str) -> str:
    told = f'<p class="lead">{escape(lead)}</p>\n' if lead else ""
    return f'<section id="{name}">\n<h2>{escape(heading)}</h2>\n{told}' + "".join(parts) + "\n</section>"


def _details(summary: str, body: str, *, shown: bool = False) -> str:
    return f"<details{' open' if shown else ''}><summary>{escape(summary)}</summary>{body}</details>"


def _controls(*controls: str) -> str:
    return f'<div class="controls">{"".join(controls)}</div>'


def _select(label: str, name: str) -> str:
    return f'<label>{escape(label)} <select id="{name}"></select></label>'


def _figure(name: str) -> str:
    return f'<div class="figure" id="figure-{name}"></div>'


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], name: str = "", numeric: Sequence[int] = ()) -> str:
    """Return a table of text; columns in ``numeric`` are set to the right, rows of the one with a name come later."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        kinds = ("number" if place in numeric else "name" for place in range(len(texts)))
        return "".join(f'<{tag} class="{kind}">{escape(text)}</{tag}>' for kind, text in zip(kinds, texts, strict=True))

    head = f"<thead><tr>{cells('th', headings)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    mark = f' id="{name}"' if name else ""
    return f'<div class="wide"><table>{head}<tbody{mark}>{body}</tbody></table></div>'


# ---- the summary -----------------------------------------------------------------------------------------------------


def _tiles(view: View) -> Iterator[str]:
    """Yield what matters most: value, label and what is to be said of it."""
    summary = view.summary
    yield from _of_sizes_and_loss(summary)
    if summary.accuracy is not None:
        a = summary.accuracy
        yield _tile(
            f"{a.before:.2%} → {a.after:.2%}",
            "accuracy",
            f"{100 * (a.after - a.before):+.2f} ± {100 * a.difference_error:.2f} points on {a.samples:,} samples",
        )
    for speed in summary.speeds:
        if isinstance(speed.value, float):
            yield _tile(f"{speed.value:.2f}×", f"speed, {speed.expected}", speed.detail)
    if summary.method:
        yield _tile(summary.method, "method", f"target {summary.target}")
    elif view.alone:
        yield from _of_units_alone(view)
    if summary.full_runs is not None and summary.seconds is not None:
        samples = f" on {summary.samples:,} samples" if summary.samples else ""
        goal = "search" if summary.method else "measure"
        yield _tile(
            f"{summary.full_runs:.1f} runs", f"of the whole model to {goal}", f"{summary.seconds:.1f} s{samples}"
        )


def _of_units_alone(view: View) -> Iterator[str]:
    """Yield what was measured where no plan was made of it."""
    units, options = ({getattr(one, name) for one in view.alone} for name in ("unit", "option"))
    told = ", ".join(option.name for option in view.options if option.name in options)
    yield _tile(f"{len(units):,} units", "measured", f"at {told}, target {view.summary.target}")
    worst = max(view.alone, key=lambda one: one.loss.value)
    label = f"largest loss {view.summary.loss_name} of a unit alone"
    yield _tile(_spread(worst.loss), label, f"{worst.unit} at {worst.option}")


def _of_sizes_and_loss(summary: Summary) -> Iterator[str]:
    """Yield what the file takes, and what it loses."""
    before, after = summary.float_file_bytes, summary.file_bytes
    if after is not None and before:
        yield _tile(byte_text(after), "file", f"{after / before:.1%} of {byte_text(before)}")
    elif before:
        yield _tile(byte_text(before), "the float file")
    if summary.loss is not None:
        against = f", {summary.predicted:.4g} predicted" if summary.predicted is not None else ""
        told = f"± {summary.loss.error:.2g} measured{against}"
        yield _tile(f"{summary.loss.value:.4g}", f"loss {summary.loss_name}".strip(), told)


def _tile(value: str, label: str, detail: str = "") -> str:
    return (
        f'<div class="tile"><div class="value">{escape(value)}</div><div class="label">{escape(label)}</div>'
        f'<div class="detail">{escape(detail)}</div></div>'
    )


def byte_text(count: int) -> str:
    """Write a number of bytes for people.

    >>> byte_text(512), byte_text(1_234_567)
    ('512 B', '1.235 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} B"


def _spread(found: Estimate) -> str:
    return f"{found.value:.4g} ± {found.error:.2g}"


# ---- tables ----------------------------------------------------------------------------------------------------------


def _unit_table() -> str:
    """Return the table of units without rows: they follow the plan that is picked."""
    headings = ("", "unit", "operator", "parameters", "option", "bytes", "loss alone", "what it may not take, and why")
    return _table(headings, (), "unit-rows", numeric=(0, 3, 5, 6))


def _alone(alone: Sequence[Alone]) -> str:
    """Return the variants that lose most, the worst first."""
    worst = sorted(alone, key=lambda one: -one.loss.value)[:ROWS]
    rows = [
        (one.unit, one.option, _spread(one.loss), f"{one.predicted:.4g}", f"{one.local:.2g}", _decibel(one.sqnr_db))
        for one in worst
    ]
    headings = ("unit", "option", "loss alone", "predicted", "error of its own output", "SQNR in dB")
    return _table(headings, rows, numeric=(2, 3, 4, 5))


def _decibel(value: float) -> str:
    return "no difference" if value == float("inf") else f"{value:.1f}"


def _pairs(pairs: Sequence[Pair]) -> str:
    measured = any(pair.measured for pair in pairs)
    headings = ["unit", "unit", "correlation", "loss together beyond both alone", *(["measured"] if measured else [])]
    rows = [
        [
            f"{pair.first} at {pair.first_option}",
            f"{pair.second} at {pair.second_option}",
            f"{pair.correlation:+.2f}",
            f"{pair.extra:+.3g}",
            *([_spread(pair.measured) if pair.measured else ""] if measured else []),
        ]
        for pair in pairs
    ]
    return _table(headings, rows, numeric=(2, 3, 4))


def _portions(view: View) -> str:
    rows = [(found.name, f"{found.before:,}", f"{found.after:,}") for found in view.portions]
    total = ("all", *(f"{sum(getattr(found, end) for found in view.portions):,}" for end in ("before", "after")))
    return _table(("bytes of", "float file", "this file"), [*rows, total], numeric=(1, 2))


def _unquantised(found: Sequence[Unquantised]) -> str:
    """Return the largest as a table, and the others as one that is folded."""
    rows = [(left.name, left.op, f"{left.stored_bytes:,}", left.reason) for left in found]
    headings = ("node or unit", "operator", "bytes", "why")
    shown = _table(headings, rows[:ROWS], numeric=(2,))
    if len(rows) <= ROWS:
        return shown
    return shown + _details(f"{len(rows) - ROWS:,} more that take less", _table(headings, rows[ROWS:], numeric=(2,)))


def _checks(checks: Sequence[Check]) -> str:
    marks = {True: "holds", False: "failed", None: ""}
    rows = [(check.name, marks[check.ok], _check_value(check), check.expected, check.detail) for check in checks]
    return _table(("check", "", "value", "expected", "detail"), rows, numeric=(2,))


def _check_value(check: Check) -> str:
    if check.value == float("inf"):
        return "no difference"
    return f"{check.value:.4g}" if isinstance(check.value, float) else f"{check.value}"


def _proof(proof: Proof) -> str:
    figures = (f"{proof.objective:.6g}", f"{proof.bound:.6g}", f"{proof.gap:.3%}", proof.solver, str(proof.seed))
    headings = ("status", "objective", "bound", "gap", "solver", "seed", "seconds")
    return _table(headings, [(proof.status, *figures, f"{proof.seconds:.1f}")])
