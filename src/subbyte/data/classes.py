"""Which of a model's outputs each class folder stands for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from subbyte.errors import SubbyteError

IMAGENET = Path("imagenet")


@dataclass(frozen=True)
class ClassOrder:
    """The classes of a model, as a folder of class folders shows them.

    Attributes:
        names: What each output stands for, in their order.
        numbers: Class folder → output.
        note: What the reader of a figure must know of it.
    """

    names: tuple[str, ...]
    numbers: Mapping[str, int]
    note: str | None = None


def class_order(
    folders: Sequence[str],
    outputs: int,
    *,
    known: Sequence[str] | None = None,
    given: Path | None = None,
    empty: Collection[str] = (),
) -> ClassOrder:
    """Number the class folders of a model.

    The first of these that applies: as the file `given` lists them; by the model's own class names;
    by WordNet ids, if the model has 1,000 outputs and most folders are ImageNet's classes, as all
    must be then; alphabetically, if there is a folder for each output.

    Args:
        folders: The names of the class folders, sorted.
        outputs: How many outputs the model has.
        known: The model's own class names, if it has any.
        given: A text file with one class a line, or "imagenet", as ImageNet's 1,000 classes are
            numbered.
        empty: Folders without images; only the alphabetical order refuses them.

    Raises:
        SubbyteError: There are more folders than outputs, a folder is none of the classes, or
            nothing says which folder is which output.
    """
    filled = [folder for folder in folders if folder not in empty]
    if given is not None:
        return _as_listed(filled, outputs, given)
    if len(filled) > outputs:
        raise SubbyteError(
            f"the evaluation images have {len(filled)} classes, but the model has only {outputs}: "
            "give the images of its classes alone"
        )
    return (
        _as_named(filled, known or ())
        or _as_imagenet(filled, outputs)
        or _alphabetical(folders, outputs, known, empty)
    )


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes (ILSVRC 2012), in their models' order."""
    text = resources.files("subbyte.data").joinpath("imagenet.txt").read_text(encoding="ascii")
    return tuple(text.split())


def listed_classes(given: Path, key: str = "data.classes") -> tuple[str, ...]:
    """The classes that a file lists, or ImageNet's by the name "imagenet".

    Args:
        given: A text file with one class a line, or "imagenet".
        key: What errors call it.

    Raises:
        SubbyteError: As `read_classes`.
    """
    built_in = given == IMAGENET and not given.is_file()  # a folder may well be called so
    return imagenet_classes() if built_in else read_classes(given, key)


def read_classes(path: Path, key: str = "data.classes") -> tuple[str, ...]:
    """The class names in a text file, one per line, in the order of the model's outputs.

    Args:
        path: The file.
        key: What errors call it.

    Raises:
        SubbyteError: The file cannot be read as text, is empty, has an empty line between others,
            or names a class twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SubbyteError(
            f"{key} {path} cannot be read: give a text file with one class per line"
        ) from error
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names:
        raise SubbyteError(f"{key} {path} is empty: give one class per line")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name or name in seen:
            fault = f"repeats '{name}'" if name else "is empty"
            raise SubbyteError(
                f"line {number} of {key} {path} {fault}: each line must name another class"
            )
        seen.add(name)
    return names


def _as_listed(folders: Sequence[str], outputs: int, given: Path) -> ClassOrder:
    names = listed_classes(given)
    numbers = {name: i for i, name in enumerate(names)}
    stranger = next((folder for folder in folders if folder not in numbers), None)
    if stranger is not None:
        raise SubbyteError(
            f"class folder '{stranger}' is not in data.classes {given}: "
            "every class folder must be named by one of its lines"
        )
    if len(names) != outputs:
        raise SubbyteError(
            f"data.classes {given} has {len(names)} lines, but the model has {outputs} outputs: "
            "give a line for each output, in their order, with or without a folder"
        )
    return ClassOrder(names, numbers)


def _as_named(folders: Sequence[str], known: Sequence[str]) -> ClassOrder | None:
    """The order of the model's own names; `None` if no folder has one of them."""
    exact, near = _single(known), _single([_spelled(name) for name in known])
    found = {f: exact.get(f, near.get(_spelled(f), -1)) for f in folders}
    strangers = [folder for folder, number in found.items() if number < 0]
    if len(strangers) == len(folders):
        return None
    if strangers:
        raise SubbyteError(
            f"class folder '{strangers[0]}' is not one of the model's {len(known)} classes "
            f"({_some(known)}): rename it, or list the model's classes in order, named as the "
            "folders are, in a file and give it as data.classes (on the command line: --classes)"
        )
    return ClassOrder(
        tuple(known), {f: number for f, number in found.items() if number is not None}
    )


def _as_imagenet(folders: Sequence[str], outputs: int) -> ClassOrder | None:
    """The order of ImageNet's classes; `None` unless most folders are named by their ids."""
    numbers = {name: i for i, name in enumerate(imagenet_classes())}
    strangers = [folder for folder in folders if folder not in numbers]
    if outputs != len(numbers) or 2 * len(strangers) >= len(folders):
        return None
    if strangers:
        raise SubbyteError(
            f"class folder '{strangers[0]}' is not one of ImageNet's {outputs} classes, by whose "
            "WordNet ids most class folders are named: rename it or take it out, or list the "
            "model's classes in order, named as the folders are, in a file and give it as "
            "data.classes (on the command line: --classes)"
        )
    return ClassOrder(tuple(numbers), numbers)


def _alphabetical(
    folders: Sequence[str], outputs: int, known: Sequence[str] | None, empty: Collection[str]
) -> ClassOrder:
    if empty:
        raise SubbyteError(
            f"class folder '{min(empty)}' holds no images: "
            "remove it if it is not a class, or list all classes in a file and give it as "
            "data.classes (on the command line: --classes)"
        )
    if len(folders) != outputs:
        raise SubbyteError(
            f"there are {len(folders)} class folders ({_some(folders)}), but the model has "
            f"{outputs} outputs, and nothing says which folder is which output"
            f"{_stray(folders, outputs)}: list all of the model's classes in order, one class "
            "folder's name a line, in a file and give it as data.classes (on the command line: "
            "--classes)"
        )
    note = None
    if known:
        note = (
            "no class folder has the name of one of the model's classes: they were taken in "
            "alphabetical order"
        )
    return ClassOrder(tuple(folders), {name: i for i, name in enumerate(folders)}, note)


def _stray(folders: Sequence[str], outputs: int) -> str:
    """Of folders that look like ImageNet's, the first that is none of them."""
    known = set(imagenet_classes())
    stray = [folder for folder in folders if folder not in known]
    alike = outputs == len(known) and all(re.fullmatch(r"n\d{8}", name) for name in folders)
    return f" ('{stray[0]}' is not one of ImageNet's classes)" if alike and stray else ""


def _single(names: Sequence[str]) -> dict[str, int]:
    """The numbers of the names that occur once."""
    counts = Counter(names)
    return {name: i for i, name in enumerate(names) if counts[name] == 1}


def _spelled(name: str) -> str:
    return name.casefold().replace("_", " ")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
