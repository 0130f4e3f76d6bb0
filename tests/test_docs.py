"""Markdown: code fences are closed, and links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = "```"


def prose(path: Path) -> list[str]:
    """The lines outside of code; an open fence takes all that follow."""
    lines, is_code = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith(FENCE):
            is_code = not is_code
        elif not is_code:
            lines.append(line)
    return lines


def anchors(path: Path) -> set[str]:
    """What GitHub makes of headings."""
    titles = [line.lstrip("#").strip() for line in prose(path) if line.startswith("#")]
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_code_fence_is_closed(path: Path) -> None:
    opened = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith(FENCE):
            is_end = line.strip() == FENCE
            assert opened is None or is_end, f"the fence at line {opened} is open at {number}"
            opened = None if opened is not None else number
    assert opened is None, f"the fence at line {opened} is open"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"`[^`]*`", "", "\n".join(prose(path)))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http", "mailto")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    for command in ("pip install uv && uv run subbyte run digits", "uv run pytest"):
        assert f"\n{command}\n" in text


def test_the_picture_is_that_of_the_table() -> None:
    space = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    assert space["PICTURE"].read_text(encoding="utf-8") == space["draw"]()
