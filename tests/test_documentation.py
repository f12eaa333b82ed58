"""What README and docs say is so: links, names, options and exit codes; two pages are carried out here."""

import dataclasses
import re
from pathlib import Path

import click
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from benchmarks.__main__ import main as bench
from onnxmpq import errors
from onnxmpq.budgets.limits import Limit
from onnxmpq.cli import COMMANDS, cli
from onnxmpq.methods import named
from onnxmpq.model import passes
from onnxmpq.registry import BUDGETS, CARRIERS, DIALECTS, METHODS, RUNTIMES
from onnxmpq.runtimes import get_runtime
from onnxmpq.targets import LayerRule, builtin_names, parse_target
from onnxmpq.verification.requirements import KINDS as REQUIREMENTS
from tests.documented import PAGES, ROOT, Block, Desk, blocks, install, options_of, prose

README = ROOT / "README.md"
DOCS = ROOT / "docs"
HERE = (README, DOCS / "start.md")
"""Pages that are carried out in this file; the others are in ``test_documentation_pages.py``."""


def by_name(page: Path) -> str:
    """Call a page by its name."""
    return page.stem


@pytest.mark.parametrize("page", HERE, ids=by_name)
def test_a_page_can_be_followed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Desk(tmp_path, monkeypatch, capsys, given=page == README) as desk:
        desk.carry_out(page)


# ---- links ---------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.is_file(), link
        assert not anchor or anchor in anchors(goal), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README.read_text("utf-8")))
    assert linked == {page.name for page in PAGES if page.parent == DOCS}


def test_every_target_has_a_page_that_is_linked_from_the_table_of_targets() -> None:
    table = (DOCS / "budgets-and-targets.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(targets/([\w-]+)\.md\)", table))
    assert linked == {page.stem for page in PAGES if page.parent == DOCS / "targets"} == set(builtin_names())


# ---- names -----------------------------------------------------------------------------------------------------------


def all_text() -> str:
    """Return all pages as one text."""
    return "\n".join(page.read_text("utf-8") for page in PAGES)


def rows(page: Path, head: str) -> set[str]:
    """Return the names in code that begin the rows of the table whose head begins so."""
    table = page.read_text("utf-8").partition(f"\n| {head} |")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_command_is_in_the_readme() -> None:
    assert {name.split()[1] for name in rows(README, "command")} == set(COMMANDS)


def test_every_option_exists() -> None:
    known = options_of(cli) | options_of(bench)
    ours = re.sub(r"^```text\n(?!onnxmpq).*?^```$", "", all_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", ours))
    assert "--budget" in named
    assert sorted(named - known) == []


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_what_the_readme_says_of_json_and_quiet_is_so(option: str) -> None:
    told = re.search(rf"`{option}` is in all but ((?:`[a-z\s]+`(?:,\s|\sand\s)?)+)", README.read_text("utf-8"))
    assert told is not None
    without = {" ".join(name.split()) for name in re.findall(r"`([^`]+)`", told[1])}
    assert without == {name for name, command in leaves(cli) if option not in options_of(command)}


def leaves(group: click.Group, before: str = "") -> list[tuple[str, click.Command]]:
    """Return all commands that are no groups, by their names."""
    found: list[tuple[str, click.Command]] = []
    for name in group.list_commands(context := click.Context(group)):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += leaves(command, f"{before}{name} ")
        elif command is not None:
            found.append((before + name, command))
    return found


def test_verbose_and_config_are_options_of_the_commands_named() -> None:
    told = re.search(r"((?:`\w+`(?:,\s|\sand\s)?)+)\s*take `-v`", README.read_text("utf-8"))
    assert told is not None
    named = set(re.findall(r"`(\w+)`", told[1]))
    for option in ("-v", "--config", "--save-config"):
        assert named == {name for name, command in leaves(cli) if option in options_of(command)}


def test_every_exit_code_is_told_and_true() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.OnnxmpqError)]
    codes = {0, 130, 141, 143} | {kind.exit_code for kind in kinds if kind is not errors.OnnxmpqError}
    table = README.read_text("utf-8").partition("| exit code |")[2].partition("\n\n")[0]
    assert set(map(int, re.findall(r"^\| (\d+) \|", table, re.MULTILINE))) == codes
    for told in re.findall(r"exit codes? ((?:\d+(?:, | and )?)+)", all_text(), re.IGNORECASE):
        assert set(map(int, re.findall(r"\d+", told))) <= codes, told


@pytest.mark.parametrize(
    ("page", "head", "known"),
    [
        ("methods.md", "method", set(METHODS.own)),
        ("budgets-and-targets.md", "target", set(builtin_names())),
        ("writing-a-target.md", "carrier", set(CARRIERS.own)),
        ("writing-a-target.md", "dialect", set(DIALECTS.own)),
        ("writing-a-target.md", "key of a layer", {field.name for field in dataclasses.fields(LayerRule)} - {"op"}),
    ],
)
def test_tables_are_complete(page: str, head: str, known: set[str]) -> None:
    assert rows(DOCS / page, head) == known


def test_kinds_of_budgets_and_requirements_are_told() -> None:
    budgets, required = rows(DOCS / "budgets-and-targets.md", "budget"), rows(DOCS / "start.md", "requirement")
    assert {re.split("[<>=]", text)[0] for text in budgets} == set(BUDGETS.own)
    assert {re.split("[<>=]", text)[0] for text in required} == set(REQUIREMENTS)


def test_commands_in_prose_are_commands() -> None:
    for page in PAGES:
        for name in re.findall(r"`onnxmpq ([a-z]+)", prose(page)):
            assert name in COMMANDS, (page.name, name)


def test_benchmarks_are_told() -> None:
    told = {name.split()[-1] for name in rows(DOCS / "measured.md", "command")}
    assert told == set(bench.commands)


# ---- a target, a method and a pass -----------------------------------------------------------------------------------


def the_file(page: str, name: str) -> Block:
    """Return the block of a page that is a file."""
    return next(block for block in blocks(DOCS / page) if block.file == name)


def test_the_target_is_read_and_used() -> None:
    found = parse_target(the_file("writing-a-target.md", "mine.toml").text, "mine.toml")
    assert found.name == "mine"
    steps = [command for block in blocks(DOCS / "writing-a-target.md") for command, _ in block.steps]
    assert any(command[:2] == ["onnxmpq", "quantize"] and "mine.toml" in command for command in steps)


def test_what_is_written_there_is_found_by_its_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "noise" not in METHODS.homes()
    with Desk(tmp_path, monkeypatch, capsys) as desk:
        for block in blocks(DOCS / "extending.md"):
            if block.file:
                desk.write(block)
        install(tmp_path)
        method = named.typed_method("noise", ["power=2"])
        assert (method.name, METHODS.homes()["noise"]) == ("noise", "mine.noise:Noise")
        model = ir.from_onnx_text(
            '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { r = Relu(x) y = Abs(r) }'
        )
        removing = passes.make_pass("remove-abs")
        assert removing(model).modified
        assert [node.op_type for node in model.graph] == ["Relu"]
        assert not removing(model).modified
        assert str(Limit.parse("coarse=3")) == "coarse=3"
        session = get_runtime("plain").session(ir.to_proto(model).SerializeToString(), mode="deployed")
        np.testing.assert_array_equal(session.run({"x": np.array([-1, 2], np.float32)})["y"], [0, 2])
        onnx.checker.check_model(ir.to_proto(model))
    assert "noise" not in METHODS.homes()
    assert "plain" not in RUNTIMES.homes()


def test_a_command_that_shows_another_line_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, command = tmp_path / "page.md", "```console\n$ onnxmpq inspect none.onnx\n"
    with Desk(tmp_path, monkeypatch, capsys, given=False) as desk:
        page.write_text(f"{command}Error: There is no file\n```\n\nExit code 2.\n", "utf-8")
        desk.carry_out(page)
        page.write_text(f"{command}Error: Something else\n```\n\nExit code 2.\n", "utf-8")
        with pytest.raises(AssertionError, match="inspect"):
            desk.carry_out(page)
        page.write_text(f"{command}```\n", "utf-8")
        with pytest.raises(AssertionError, match=r"There is no file 'none\.onnx'"):
            desk.carry_out(page)
