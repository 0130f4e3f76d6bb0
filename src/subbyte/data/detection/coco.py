"""COCO's form of annotations: a JSON file with images, annotations and categories."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.data.detection.listing import Annotated
from subbyte.errors import SubbyteError

KEYS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class FoundImages:
    """What a reader of annotations found.

    Attributes:
        annotated: The images as annotated.
        classes: The class names, that of label 1 first.
        category_ids: Label → the set's own number.
    """

    annotated: tuple[Annotated, ...]
    classes: tuple[str, ...]
    category_ids: Mapping[int, int]


def find_coco(folders: Sequence[Path], annotations: Path) -> FoundImages:
    """The images that a JSON file in COCO's form lists, and the objects that it has on them.

    Labels count the categories from 1 in the order of their ids. Images come in the file's order,
    and those without objects stay. A box reaches from (x, y) to (x + width, y + height). Image
    files are not looked for and boxes not checked: `listing.settle` does. The images are in the
    first of `folders` that holds the first image; else in the first of all.

    Raises:
        SubbyteError: The file is cut off, lacks a part, or contradicts itself.
    """
    content = _load(annotations)
    categories = sorted(_categories(content["categories"], annotations).items())
    labels = {number: label for label, (number, _) in enumerate(categories, 1)}
    by_image = _by_image(content["annotations"], annotations)
    first = [_entry(entry, annotations)[1] for entry in content["images"][:1]]
    images = next((f for f in folders for name in first if (f / name).is_file()), folders[0])
    annotated: list[Annotated] = []
    listed: set[int] = set()
    for entry in content["images"]:
        number, name = _entry(entry, annotations)
        if number in listed:
            raise SubbyteError(f"{annotations} has image {number} twice: give each id to one")
        listed.add(number)
        rows = by_image.pop(number, [])
        annotated.append(_annotated(images / name, number, entry, rows, labels, annotations))
    if by_image:
        stray = next(iter(by_image.values()))[0]
        raise SubbyteError(
            f"annotation {stray.get('id')} of {annotations} is on image {stray['image_id']}, which "
            "the file does not list: list every image under images"
        )
    if not annotated:
        raise SubbyteError(f"{annotations} lists no images: give a file with some under images")
    return FoundImages(
        tuple(annotated),
        tuple(name for _, name in categories),
        {label: number for number, label in labels.items()},
    )


def _load(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SubbyteError(
            f"annotations {path} cannot be read ({error.strerror}): give a JSON file"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        where = ""
        if isinstance(error, json.JSONDecodeError):
            where = f", {error.msg} at line {error.lineno}, column {error.colno}"
        raise SubbyteError(
            f"{path} is cut off or not JSON{where}: give a whole file in COCO's form"
        ) from None
    for key in KEYS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise SubbyteError(
                f"{path} has no list of {key}: give a file in COCO's form, with the lists "
                f"{', '.join(KEYS)}"
            )
    return {key: content[key] for key in KEYS}


def _categories(entries: Sequence[Any], path: Path) -> dict[int, str]:
    categories: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or "name" not in entry:
            raise SubbyteError(
                f"a category of {path} is {entry!r}: it needs an id, an integer, and a name"
            )
        if entry["id"] in categories:
            raise SubbyteError(f"{path} has category {entry['id']} twice: give each id to one")
        categories[entry["id"]] = str(entry["name"])
    if not categories:
        raise SubbyteError(f"{path} has no categories: list each class with its id and its name")
    return categories


def _by_image(entries: Sequence[Any], path: Path) -> dict[int, list[dict[str, Any]]]:
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        known = entry if isinstance(entry, dict) else {}
        for key, kind in (("image_id", int), ("category_id", int), ("bbox", list)):
            if type(known.get(key)) is not kind:
                raise SubbyteError(
                    f"annotation {known.get('id', entry)} of {path} has {known.get(key)!r} as "
                    f"{key}: give each the integers image_id and category_id, and a bbox"
                )
        by_image[entry["image_id"]].append(entry)
    return dict(by_image)


def _entry(entry: Any, path: Path) -> tuple[int, str]:
    if not isinstance(entry, dict) or type(entry.get("id")) is not int or "file_name" not in entry:
        raise SubbyteError(
            f"an image of {path} is {entry!r}: it needs an id, an integer, and a file_name"
        )
    return entry["id"], str(entry["file_name"])


def _annotated(
    image: Path,
    number: int,
    entry: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    labels: Mapping[int, int],
    path: Path,
) -> Annotated:
    boxes = np.array([_box(row, path) for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    for row in rows:
        if row["category_id"] not in labels:
            known = ", ".join(map(str, list(labels)[:12])) + (", …" if len(labels) > 12 else "")
            raise SubbyteError(
                f"annotation {row.get('id')} of {path} has category_id {row['category_id']}, which "
                f"is not one of its categories ({known}): list it under categories"
            )
    size: list[Any] = [entry.get("height"), entry.get("width")]
    stated = all(type(side) is int and side > 0 for side in size)
    return Annotated(
        path=image,
        image_id=number,
        size=(size[0], size[1]) if stated else None,
        boxes=boxes,
        labels=np.array([labels[row["category_id"]] for row in rows], np.int64),
        area=np.array([_number(row.get("area")) for row in rows], np.float64),
        iscrowd=np.array([bool(row.get("iscrowd")) for row in rows], bool),
        difficult=np.array([bool(row.get("difficult")) for row in rows], bool),
        where=path,
        kind="annotation",
        numbers=[row.get("id", i) for i, row in enumerate(rows)],
    )


def _box(row: Mapping[str, Any], path: Path) -> list[float]:
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise SubbyteError(
            f"annotation {row.get('id')} of {path} has the bbox {box!r}: give four numbers, "
            "x, y, width and height"
        )
    return [_number(value) for value in box]


def _number(value: Any) -> float:
    """A number as a float; NaN for anything else, as for the null that some tools write."""
    return float(value) if isinstance(value, int | float) else float("nan")
