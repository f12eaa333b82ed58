"""``--record``, and ``onnxmpq report``: the page of a run, made again without it."""

import json
import re
from pathlib import Path

import pytest

from onnxmpq.report.record import read_record
from onnxmpq.sensitivity.table import Table
from tests.cli.running import refused, run
from tests.cli.test_completion import started

PLAIN = ("quantize", "m.onnx", "-c", "s.npz", "-o", "q.onnx", "--allow-slower", "-q")
SEARCH = (*PLAIN, "-b", "size=60%", "--effort", "quick")
FRONT = ("pareto", "m.onnx", "-c", "s.npz", "--points", "3", "-q")
MEASURE = ("measure", "m.onnx", "-c", "s.npz", "--options", "w8a8,w4a8", "-q")


@pytest.mark.parametrize("command", [SEARCH, PLAIN, FRONT], ids=["search", "build", "pareto"])
def test_the_page_of_a_record_is_that_of_the_run(command: tuple[str, ...], chain: Path) -> None:
    shown = run(*command, "--report", "page.html", "--record", "kept.json").stdout
    assert re.search(r"^report +page\.html\nrecord +kept\.json$", shown, re.MULTILINE)
    assert (chain / "kept.json").read_bytes() == (chain / "page.json").read_bytes()
    assert run("report", "kept.json", "-o", "again.html").stdout == "report    again.html\n"
    assert (chain / "again.html").read_bytes() == (chain / "page.html").read_bytes()
    assert run("report", "page.json", "-o", "third.html").exit_code == 0
    assert (chain / "third.html").read_bytes() == (chain / "page.html").read_bytes()


def test_what_was_measured_has_a_record_and_its_page(chain: Path) -> None:
    shown = run(*MEASURE, "--pairs", "-o", "t.json", "--record", "r.json", "--store", "m.store").stdout
    assert re.search(r"^record +r\.json$", shown, re.MULTILINE)
    assert "--record" not in shown.partition("next ")[2]
    view, table = read_record(chain / "r.json"), Table.read(chain / "t.json")
    assert (view.title, view.plans, view.chosen) == ("m.onnx", (), ())
    assert [(one.unit, one.option, one.loss.value) for one in view.alone] == [
        (variant.unit, str(variant.option), loss) for variant, loss in zip(table.variants, table.loss, strict=True)
    ]
    assert len([guess for guess in view.guesses if guess.kind == "pair"]) == len(table.pairs)
    assert (view.summary.samples, view.summary.full_runs) == (table.samples, table.cost["full_runs"])
    run("report", "r.json")
    page = (chain / "r.html").read_text("utf-8")
    sections = re.findall(r'<section id="(\w+)"', page)
    assert [name for name in sections if name not in ("notes", "unquantised", "command")] == (
        ["summary", "alone", "map", "guesses"]
    )
    for text in (f"{table.loss.max():.4g} ± ", table.variants[0].unit, f"{table.cost['full_runs']:.1f} runs"):
        assert text in page


def test_a_dry_run_leaves_no_record(chain: Path) -> None:
    run(*MEASURE, "--dry-run", "--record", "r.json")
    run(*SEARCH, "--dry-run", "--record", "r.json")
    assert not (chain / "r.json").exists()


@pytest.mark.parametrize("command", [PLAIN, FRONT, MEASURE], ids=lambda command: str(command[0]))
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--record", "nowhere/r.json"), "The folder 'nowhere' of the record 'nowhere/r.json' does not exist."),
        (("--record", "there.json"), "The record 'there.json' exists. Choose another name, or give --overwrite."),
        (("--record", "."), "The record '.' is a folder."),
        (("--record", "s.npz"), "The record 's.npz' is the calibration data, too."),
        (("--record", "x", "-o", "x"), "The record 'x' is the output, too."),
        (("--record", "x" * 300), "The name of the record"),
        (
            ("--record", "x.json", "--save-config", "x.json"),
            "The record 'x.json' is the configuration to be saved, too.",
        ),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_a_record_that_cannot_be_written_is_refused_before_any_work(
    command: tuple[str, ...], more: tuple[str, ...], message: str, chain: Path
) -> None:
    (chain / "there.json").write_text("mine")
    before = {path.name: path.read_bytes() for path in chain.iterdir()}
    error = refused(*command, *more)
    assert error.exit_code == 2
    assert message in str(error)
    assert {path.name: path.read_bytes() for path in chain.iterdir()} == before


def test_a_record_is_not_the_file_of_a_reports_numbers(chain: Path) -> None:
    error = refused(*PLAIN, "--report", "r.html", "--record", "r.json")
    assert "The file of the report's numbers 'r.json' is the record, too." in str(error)


def test_what_lies_there_is_replaced_where_that_is_asked_for(chain: Path) -> None:
    (chain / "r.json").write_text("mine")
    run(*MEASURE, "--record", "r.json", "--overwrite")
    assert json.loads((chain / "r.json").read_text())["schema"] == 1
    (chain / "r.html").write_text("mine")
    assert "The report 'r.html' exists. Choose another name, or give --overwrite." in str(refused("report", "r.json"))
    assert (chain / "r.html").read_text() == "mine"
    run("report", "r.json", "--overwrite")
    assert "m.onnx" in (chain / "r.html").read_text("utf-8")
    run("report", "r.json", "-o", ".")
    assert (chain / "report.html").read_bytes() == (chain / "r.html").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json",), "The record 'none.json' cannot be read: No such file"),
        ((".",), "The record '.' is a folder."),
        (("s.npz",), "The record 's.npz' is not UTF-8 text"),
        (("q.plan.json",), "'q.plan.json' is not a record"),
        (("r.json", "-o", "r.json"), "The report 'r.json' is a page: call it .html"),
        (("r.json", "-o", "r.pdf"), "The report 'r.pdf' is a page: call it .html"),
        (("r.json", "-o", "nowhere/p.html"), "The folder 'nowhere' of the report 'nowhere/p.html' does not exist."),
        (("r.html",), "The report 'r.html' is the record, too."),
        (("r.json", "-o", "other.html"), "keeps its numbers in 'other.json', which is another file."),
        (("r.json", "-o", "x" * 300 + ".html"), "The name of the report"),
        (("damaged.json",), "'title' is null, expected a text. Run the command again with --record."),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], message: str, chain: Path) -> None:
    run(*PLAIN, "--record", "r.json")
    (chain / "r.html").write_bytes((chain / "r.json").read_bytes())
    (chain / "other.json").write_text("{}")
    damaged = json.loads((chain / "r.json").read_text()) | {"title": None}
    (chain / "damaged.json").write_text(json.dumps(damaged))
    before = {path.name: path.read_bytes() for path in chain.iterdir()}
    error = refused("report", *arguments)
    assert error.exit_code == 2
    assert message in str(error)
    assert {path.name: path.read_bytes() for path in chain.iterdir()} == before


def test_making_a_page_loads_nothing_heavy(chain: Path) -> None:
    run(*MEASURE, "--record", "r.json")
    heavy = ("numpy", "onnx", "onnx_ir", "scipy", "onnxruntime", "highspy", "onnxmpq.api", "onnxmpq.report.view")
    for arguments in (["--help"], ["r.json"]):
        ended = started(
            "import sys\nfrom onnxmpq.cli import cli\ntry:\n"
            f"    cli.main({['report', *arguments]}, standalone_mode=False)\nfinally:\n"
            f"    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
        )
        assert ended.stderr == "[]\n"
    assert (chain / "r.html").is_file()
