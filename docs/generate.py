"""What reference pages take from the code: fields of recipes and experiments, commands, rules."""

from __future__ import annotations

import importlib
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

DOCS = Path(__file__).parent


def fields(where: str) -> str:
    """The fields of a class (`module:Class`), with defaults and the docstring's words for each."""
    module, _, name = where.partition(":")
    kind = getattr(importlib.import_module(module), name)
    said = attributes(kind)
    lines = ["| Key | Default | Meaning |", "|---|---|---|"]
    for key, field in kind.model_fields.items():
        given = field.get_default(call_default_factory=True)
        default = "needed" if field.is_required() else _shown(given)
        meaning = [said.get(key, ""), _values(field.annotation)]
        lines.append(f"| `{key}` | {default} | {_cell(' '.join(filter(None, meaning)))} |")
    return "\n".join(lines)


def attributes(kind: type) -> dict[str, str]:
    """Name → text, of the section `Attributes:` of a class's docstring."""
    found: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        found |= _section(inspect.cleandoc(parent.__doc__ or ""), "Attributes:")
    return found


def command(name: str) -> str:
    """A command: what it does, how it is called, its arguments and options."""
    import typer

    from subbyte.app.cli import app

    group: Any = typer.main.get_command(app)
    found = group.commands[name]
    text = inspect.cleandoc(found.help or "")
    example = re.search(r"Example: (.*)", text, re.S)
    what = text[: example.start()].strip() if example else text
    lines = [" ".join(what.split()), ""]
    if example:
        lines += ["```console", f"$ {' '.join(example[1].split())}", "```", ""]
    lines += ["| | Default | |", "|---|---|---|"]
    for parameter in found.params:
        row = (_names(parameter), _default(parameter), _cell(parameter.help or ""))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def commands() -> str:
    """Every command, under a heading of its own."""
    import typer

    from subbyte.app.cli import app

    group: Any = typer.main.get_command(app)
    return "\n\n".join(f"## subbyte {name}\n\n{command(name)}" for name in group.commands)


def experiments() -> str:
    """The built-in experiments."""
    from subbyte.app import experiment

    lines = ["| Name | |", "|---|---|"]
    for name, path in experiment.builtin().items():
        lines.append(f"| `{name}` | {_cell(experiment.summary(path))} |")
    return "\n".join(lines)


def rules() -> str:
    """The range rules and their options."""
    lines = ["| Rule | Options | |", "|---|---|---|"]
    for path in _files("numerics/ranges"):
        function = importlib.import_module(f"subbyte.numerics.ranges.{path.stem}").range_of
        options = [
            f"`{name}` ({_shown(p.default)})"
            for name, p in inspect.signature(function).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        said = _first(importlib.import_module(f"subbyte.numerics.ranges.{path.stem}"))
        lines.append(f"| [`{path.stem}`](../explained/ranges.md) | {', '.join(options)} | {said} |")
    return "\n".join(lines)


def methods() -> str:
    """The methods, each with its options."""
    parts = []
    for path in _files("methods"):
        module = importlib.import_module(f"subbyte.methods.{path.stem}")
        parts.append(f"### {path.stem}\n\n{_first(module)}\n")
        options = module.Options
        if options.model_fields:
            parts.append(fields(f"{options.__module__}:{options.__qualname__}") + "\n")
        else:
            parts.append("It has no options.\n")
    return "\n".join(parts)


def contract(*title: str) -> str:
    """A section of the contract, with its links as they read from docs/reference/."""
    text = (DOCS / "contract.md").read_text(encoding="utf-8")
    name = " ".join(title)
    begin = text.index(f"\n## {name}\n") + len(f"\n## {name}\n")
    end = text.find("\n## ", begin)
    section = text[begin : end if end > 0 else len(text)].strip()
    section = re.sub(r"\]\(#", "](../contract.md#", section)
    return re.sub(r"\]\((?!http|\.\./contract\.md)", "](../", section)


def _files(folder: str) -> Iterator[Path]:
    import subbyte

    root = Path(subbyte.__file__).parent / folder
    return (path for path in sorted(root.glob("*.py")) if not path.stem.startswith("_"))


def _section(text: str, heading: str) -> dict[str, str]:
    """Name → text of one section of a docstring in Google's style."""
    found: dict[str, str] = {}
    name, inside = "", False
    for line in text.splitlines():
        if not line.startswith(" "):
            inside = line.strip() == heading or (inside and not line.strip())
        elif inside and (begun := re.match(r" {4}(\w+): (.*)", line)):
            name = begun[1]
            found[name] = begun[2]
        elif inside and name:
            found[name] += f" {line.strip()}"
    return found


def _first(module: types.ModuleType) -> str:
    return _cell((inspect.getdoc(module) or "").split("\n\n")[0])


def _values(annotation: Any) -> str:
    """The words that a field takes, where its type lists them."""
    kinds = _literals(annotation)
    return "" if not kinds else "One of " + ", ".join(f"`{kind}`" for kind in kinds) + "."


def _literals(annotation: Any) -> list[str]:
    origin = get_origin(annotation)
    if origin is Literal:
        return [str(value) for value in get_args(annotation)]
    if origin is Annotated:
        return _literals(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [value for kind in get_args(annotation) for value in _literals(kind)]
    return []


def _shown(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{[list(v) if isinstance(v, tuple) else v for v in value]}`".replace("'", "")
    if hasattr(value, "model_fields"):
        return ""
    return f"`{value}`"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{(parameter.metavar or parameter.name).strip('[]')}`"
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(f"`{name}{value}`" for name in names)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if parameter.default is None or getattr(parameter, "is_flag", False):
        return ""
    return f"`{parameter.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
