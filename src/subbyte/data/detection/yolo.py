"""YOLO's form of annotations: for each image a text file, with a line for each object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from subbyte.data.detection.coco import FoundImages
from subbyte.data.detection.listing import Annotated, read_lines
from subbyte.data.images import image_files
from subbyte.errors import SubbyteError


def find_yolo(
    paths: Sequence[Path], classes: Sequence[str], folders: tuple[Path, Path] | None = None
) -> FoundImages:
    """Image files, and the objects in the text files of their names.

    A line is a class, counted from 0, and centre, width and height of a box, or three or more
    corners of an outline, whose box is taken; all in widths and heights of the image. An image
    without a text file has no objects. Labels are YOLO's class plus 1. Image files are not looked
    at and boxes not checked: `listing.settle` does.

    Args:
        paths: The image files.
        classes: The names, class 0 first.
        folders: Those of images and of text files; by default the images' with the last folder
            called "images" in it called "labels", or itself if there is none.

    Raises:
        SubbyteError: There are no images, or a line is not like that.
    """
    if not paths:
        raise SubbyteError("there are no images: give a folder with JPEG, PNG or other image files")
    annotated = []
    for number, path in enumerate(paths, 1):
        text = labels_of(path)
        if folders is not None:
            text = (folders[1] / path.relative_to(folders[0])).with_suffix(".txt")
        annotated.append(_annotated(path, number, text, len(classes)))
    return FoundImages(tuple(annotated), tuple(classes), {i + 1: i for i in range(len(classes))})


def labels_of(image: Path) -> Path:
    """Where YOLO's tools look for the text file of an image."""
    parts = list(image.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def read_names(path: Path) -> tuple[str, ...]:
    """The class names of a `data.yaml` (`names`, a list or a mapping), or of a text file.

    Raises `SubbyteError` if there are none, or the numbers of a mapping leave gaps.
    """
    if path.suffix not in (".yaml", ".yml"):
        names = read_lines(path)
    else:
        given = read_yaml(path).get("names")
        if isinstance(given, Mapping):
            if set(given) != set(range(len(given))):
                raise SubbyteError(
                    f"names in {path} are numbered {', '.join(map(str, given))}: number all "
                    "classes from 0 without gaps"
                )
            given = [given[number] for number in range(len(given))]
        names = [str(name) for name in given] if isinstance(given, list) else []
    if not names:
        raise SubbyteError(f"{path} names no classes: list them under names")
    return tuple(names)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a `data.yaml`; raises `SubbyteError` if it is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubbyteError(f"{path} cannot be read ({error.strerror}): give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(f"{path} is cut off or not YAML ({reason}): give a whole file") from None
    if not isinstance(content, dict):
        raise SubbyteError(f"{path} holds no mapping: give a YAML file with train, val and names")
    return content


def images_of(content: Mapping[str, Any], key: str, path: Path) -> list[Path]:
    """The image files that a `data.yaml` has under a key: of folders, or of lists.

    Args:
        content: The mapping in the file.
        key: The name of a split.
        path: The file.

    Raises:
        SubbyteError: The key, a folder or a list is missing.
    """
    given = content.get(key)
    if not given:
        raise SubbyteError(f"{path} has no {key}: name a folder of images under it")
    base = path.parent / Path(os.path.expanduser(str(content.get("path") or ".")))
    images: list[Path] = []
    for entry in given if isinstance(given, list) else [given]:
        place = _placed(Path(str(entry)), (base, path.parent))
        if place is None:
            raise SubbyteError(f"{path} has {entry} as {key}, which does not exist: name a folder")
        if place.is_dir():
            images += image_files(place)
            continue
        images += [place.parent / line for line in read_lines(place)]
    return images


def _placed(entry: Path, bases: Sequence[Path]) -> Path | None:
    """`entry` below the first of `bases` where it exists.

    Roboflow's files begin with "../" where there is nothing to go up from, as YOLO's tools know.
    """
    shortened = Path(*entry.parts[1:]) if entry.parts[:1] == ("..",) else entry
    places = (base / name for name in (entry, shortened) for base in bases)
    return next((place for place in places if place.exists()), None)


def _annotated(image: Path, number: int, text: Path, classes: int) -> Annotated:
    lines = read_lines(text) if text.is_file() else []
    rows = [_line(line, f"object {i} of {text}", classes) for i, line in enumerate(lines, 1)]
    count = len(rows)
    return Annotated(
        path=image,
        image_id=number,
        size=None,
        boxes=np.array([box for _, box in rows], np.float64).reshape(-1, 4),
        labels=np.array([label for label, _ in rows], np.int64),
        area=np.full(count, np.nan),
        iscrowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool),
        where=text,
        kind="object",
        numbers=range(1, count + 1),
        relative=True,
    )


def _line(line: str, name: str, classes: int) -> tuple[int, list[float]]:
    """The label, from 1, and the corners of the box in a line."""
    try:
        number, *values = [float(part) for part in line.split()]
    except ValueError:
        raise SubbyteError(f"{name} is '{line.strip()[:60]}': give numbers alone") from None
    if not number.is_integer() or not 0 <= number < classes:
        raise SubbyteError(
            f"{name} has class {number:g}, and there are {classes} names: give 0 to {classes - 1}"
        )
    if len(values) == 4:
        x, y, width, height = values
        return int(number) + 1, [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    if len(values) < 6 or len(values) % 2:
        raise SubbyteError(
            f"{name} has {len(values)} numbers behind its class: give centre, width and height, "
            "or the corners of an outline"
        )
    xs, ys = values[::2], values[1::2]
    return int(number) + 1, [min(xs), min(ys), max(xs), max(ys)]
