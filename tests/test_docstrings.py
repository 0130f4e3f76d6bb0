"""What the package's text keeps to: documented arguments, short files, the field's words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import subbyte

SOURCE = Path(subbyte.__file__).parent
LINES = 400
# Names that say nothing of what they stand for, or stood for something that is gone.
GONE = re.compile(r"\b(State|Captured|in_float|AT_ONCE|portions?|Facts)\b")


def test_functions_with_more_than_two_arguments_describe_each() -> None:
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files()}
    described = {shape for tree in trees.values() for shape in of_protocols(tree)}
    found = [
        f"{path.relative_to(SOURCE)}:{function.lineno} {function.name}"
        for path, tree in trees.items()
        for function in public(tree)
        if not is_described(function, described)
    ]
    assert not found


def test_the_arguments_that_are_described_are_those_of_the_function() -> None:
    for path in files():
        for function in public(ast.parse(path.read_text(encoding="utf-8"))):
            section = re.search(
                r"^Args:\n(.+?)(?=^\S|\Z)", ast.get_docstring(function) or "", re.M | re.S
            )
            if section:
                named = re.findall(r"^    \*{0,2}(\w+):", section[1], re.M)
                assert named == arguments(function), f"{path}:{function.lineno} {function.name}"


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert not {str(path): length for path, length in lengths.items() if length > LINES}


def test_no_name_or_comment_has_a_word_that_is_gone() -> None:
    lines = [
        f"{path.relative_to(SOURCE)}:{number} {line.strip()}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    ]
    assert not [line for line in lines if GONE.search(line)]


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Public functions and methods of public classes, with those of protocols."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def arguments(function: ast.FunctionDef) -> list[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    if given.vararg is not None:
        every.insert(len(given.posonlyargs) + len(given.args), given.vararg)
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def is_described(function: ast.FunctionDef, described: set[tuple[str, ...]]) -> bool:
    """Whether a function needs no description of its arguments, or it or its protocol has one."""
    return (
        len(arguments(function)) < 3
        or "Args:" in (ast.get_docstring(function) or "")
        or (function.name, *arguments(function)) in described
        or any(
            ast.unparse(x).startswith(("app.command", "overload")) for x in function.decorator_list
        )
    )


def of_protocols(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """Name and arguments of the methods that a protocol describes, for those that implement it."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases):
            for function in public(node):
                if "Args:" in (ast.get_docstring(function) or ""):
                    yield (function.name, *arguments(function))
