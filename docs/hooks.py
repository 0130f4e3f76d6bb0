"""Hooks of MkDocs: what `docs/generate.py` makes of the code, and links as GitHub reads them.

A line `<!-- make: NAME ARGUMENT -->` of a page stands for what the function `NAME` of
`docs/generate.py` returns, so that reference pages cannot differ from the code.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "src")]

import generate  # noqa: E402

MADE = re.compile(r"^<!-- make: (\w+) ?(.*?) -->$", re.M)
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)\s]+)\)")


def github_anchor(title: str, separator: str = "-") -> str:
    """The anchor that GitHub makes of a heading, so that a link is the same there and here."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Give headings GitHub's anchors."""
    config.mdx_configs["toc"]["slugify"] = github_anchor
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what is made, and name files outside of docs/ in the place of linking to them."""
    markdown = MADE.sub(lambda found: getattr(generate, found[1])(*found[2].split()), markdown)
    folder = PurePosixPath(page.file.src_uri).parent

    def inside(found: re.Match[str]) -> str:
        title, link = found[1], found[2]
        if link.startswith(("http", "#", "mailto")):
            return found[0]
        target = (DOCS / folder / link.partition("#")[0]).resolve()
        if target.is_relative_to(DOCS.resolve()):
            return found[0]
        path = target.relative_to(DOCS.parent.resolve())
        named = title.strip("`") in (path.name, str(path))
        return f"`{path}`" if named else f"{title} (`{path}`)"

    return LINK.sub(inside, markdown)
