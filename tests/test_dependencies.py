"""What the package imports is what it asks for: its wheel is tried where all of it is installed."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import subbyte

SOURCES = sorted(Path(subbyte.__file__).parent.rglob("*.py"))
OPTIONAL = {"onnxruntime", "openvino", "timm"}  # extras of the same names


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


def required() -> dict[str, bool]:
    """The distributions that the package asks for; whether only an extra of it does."""
    lines = metadata.requires("subbyte") or []
    names = {line: re.match(r"[\w.-]+", line) for line in lines}
    return {distribution(name[0]): "extra ==" in line for line, name in names.items() if name}


def test_every_import_is_of_a_package_that_is_asked_for() -> None:
    asked = required()
    assert {name for name, extra in asked.items() if extra} >= OPTIONAL
    brought = metadata.packages_distributions()
    for source in SOURCES:
        for module in imported(source):
            names = {distribution(name) for name in brought[module]}
            assert names & asked.keys(), f"{source.name} imports {module}"
