"""The pages that ``test_documentation.py`` does not carry out are carried out here."""

from pathlib import Path

import pytest

from tests.documented import PAGES, Desk

ELSEWHERE = ("README.md", "start.md")
"""Pages of ``test_documentation.py``."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.stem)
def test_a_page_can_be_followed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Desk(tmp_path, monkeypatch, capsys) as desk:
        desk.carry_out(page)
