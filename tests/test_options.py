"""Options as fields: one source for keywords, command line, configuration files and documentation."""

from dataclasses import fields
from typing import Any

import click
import pytest

from onnxmpq.cli import COMMANDS, cli
from onnxmpq.cli.fields import flagged, option
from onnxmpq.errors import InputError
from onnxmpq.options import Constraints, MeasureOptions, Numbers, SearchOptions, VerifyOptions
from tests.options_page import KINDS, PAGE, page


def test_the_page_of_options_is_what_the_fields_say(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text("utf-8") == page()


@pytest.mark.parametrize("kind", KINDS)
def test_every_flag_is_an_option_of_a_command_with_its_help(kind: type) -> None:
    known: dict[str, click.Option] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        known |= {flag: one for one in command.params if isinstance(one, click.Option) for flag in one.opts}
    for found in flagged(kind):
        flag = found.metadata["flag"].split("/")[0]
        assert flag in known
        if flag != "--threads":  # which two classes share
            made = option(found, unset=kind is Numbers)(click.command()(lambda **_: None))
            (mine,) = made.params if isinstance(made, click.Command) else made.__click_params__  # type: ignore[attr-defined]
            assert known[flag].help == mine.help


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_asked_is_what_a_class_is_by_itself(kind: Any) -> None:
    assert kind() == kind(**{found.name: found.default for found in fields(kind)})


def test_lists_are_held_as_they_cannot_change() -> None:
    assert Constraints(keep=["a=w8"]) == Constraints(keep=("a=w8",))
    assert VerifyOptions(guard="sqnr>=20").guard == ("sqnr>=20",)
    assert hash(SearchOptions(options=["w8a8"])) == hash(SearchOptions(options=("w8a8",)))
    assert MeasureOptions(outputs=iter(["logits"])).outputs == ("logits",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cudo:0", r"no device 'cudo:0'\. Known: cpu, cuda:0, cuda:1 and so on, host\. Did you mean 'cuda:0'\?$"),
        ("cuda:01", r"no device 'cuda:01'"),
        ("cuda:-1", r"no device 'cuda:-1'"),
        ("", r"no device ''"),
        ("gpu", r"no device 'gpu'"),
        ("cuda:0,", r"no device ''"),
        ("cpu,cuda:0", r"^The devices 'cpu,cuda:0' are not of one kind\. Several can only be GPUs: cuda:0,cuda:1\.$"),
    ],
)
def test_a_device_that_there_cannot_be_is_refused(device: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        MeasureOptions(device=device)


def test_a_device_may_be_named_twice() -> None:
    assert MeasureOptions(device="cuda, cuda:2,cuda:0").devices == ("cuda:0", "cuda:2")
    assert MeasureOptions(device="cuda,cuda:2").jobs == 2
    assert MeasureOptions(device="cuda,cuda:2", jobs=1).jobs == 1


def test_an_effort_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"no effort 'quik'\. Known: quick, default, extensive\. Did you mean"):
        SearchOptions(effort="quik")
