"""What the package imports is what it asks for: its wheel is tried where all of it is installed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import subbyte

SOURCES = sorted(Path(subbyte.__file__).parent.rglob("*.py"))


def imported(source: Path) -> set[str]:
    """The top-level names of the modules that a file imports, wherever in the file it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"subbyte"}


def distribution(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> set[str]:
    """The distributions that the package or an extra of it asks for."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    lines = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    found = (re.match(r"[\w.-]+", line) for line in lines)
    return {distribution(name[0]) for name in found if name}


@pytest.mark.slow
def test_every_import_is_of_a_package_that_is_asked_for() -> None:
    asked, brought = required(), metadata.packages_distributions()
    unasked = {
        (source.name, module)
        for source in SOURCES
        for module in imported(source)
        if not asked & {distribution(name) for name in brought[module]}
    }
    assert not unasked
