"""The scripts in benchmarks/: what they take from the package exists, and they say what they do."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def tree(name: str) -> ast.Module:
    return ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


WITH_OPTIONS = [name for name in SCRIPTS if "ArgumentParser" in ast.dump(tree(name))]


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts can be imported, as when one of them runs, and are forgotten afterwards."""
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in SCRIPTS:
        sys.modules.pop(name, None)


def of_the_package(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == "subbyte"


def taken(script: ast.Module) -> Iterator[tuple[str, str, object]]:
    """What a script imports from the package: the name it uses, where it is from, what it is."""
    for node in ast.walk(script):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if of_the_package(alias.name):
                    yield alias.asname or alias.name, "", importlib.import_module(alias.name)
        if isinstance(node, ast.ImportFrom) and of_the_package(node.module):
            assert node.module is not None
            module = importlib.import_module(node.module)
            for alias in node.names:
                where = f"{node.module}.{alias.name}"
                if not hasattr(module, alias.name):
                    assert importlib.util.find_spec(where) is not None, f"there is no {where}"
                    importlib.import_module(where)
                yield alias.asname or alias.name, where, getattr(module, alias.name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_takes_from_the_package_exists(name: str) -> None:
    script = tree(name)
    modules = {own: found for own, _, found in taken(script) if isinstance(found, ModuleType)}
    for node in ast.walk(script):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - set(WITH_OPTIONS)))
def test_a_script_without_options_can_be_imported(name: str) -> None:
    assert importlib.import_module(name).__file__ == str(FOLDER / f"{name}.py")


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_a_script_says_what_its_options_are(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        script.main()
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {name}.py")
    assert "--" in shown.replace("--help", "")
