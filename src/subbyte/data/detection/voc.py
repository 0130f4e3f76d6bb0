"""Pascal VOC's form of annotations: an XML file for each image, and lists of images by split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from subbyte.data.categories import VOC
from subbyte.data.detection.coco import FoundImages
from subbyte.data.detection.listing import Annotated, read_lines
from subbyte.data.images import EXTENSIONS
from subbyte.errors import SubbyteError, unknown

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(root: Path, split: str, classes: Sequence[str] | None = None) -> FoundImages:
    """The images that ROOT/ImageSets/Main/SPLIT.txt lists, and the objects on them.

    VOC counts pixels from 1 and a box includes its last ones, so a box reaches from xmin - 1 to
    xmax. Image files are not looked at and boxes not checked: `listing.settle` does.

    Args:
        root: The folder with JPEGImages, Annotations and ImageSets.
        split: The name of a list of images.
        classes: The names in the order of the labels; by default Pascal VOC's 20 where all classes
            are among these, else the names in ROOT/Annotations in the alphabet's order.

    Raises:
        SubbyteError: There is no such split, an image or its annotations are missing, or an XML
            file is cut off.
    """
    names = _split(root, split)
    images = {
        path.stem: path
        for path in sorted((root / "JPEGImages").iterdir())
        if path.suffix.lower() in EXTENSIONS
    }
    trees = [_parse(root / "Annotations" / f"{name}.xml") for name in names]
    missing = [name for name in names if name not in images]
    if missing:
        more = f", and {len(missing) - 1} more images are missing" if len(missing) > 1 else ""
        raise SubbyteError(
            f"{root / 'Annotations' / missing[0]}.xml is of an image that is not in "
            f"{root / 'JPEGImages'}{more}: put it there, or take it out of {split}.txt"
        )
    order = tuple(classes) if classes is not None else _classes(root)
    annotated = tuple(
        _annotated(images[name], number, tree, order, root / "Annotations" / f"{name}.xml")
        for number, (name, tree) in enumerate(zip(names, trees, strict=True), 1)
    )
    return FoundImages(annotated, order, {label: label for label in range(1, len(order) + 1)})


def voc_root(root: Path) -> Path | None:
    """The folder with JPEGImages and Annotations: `root`, or VOC2007 or VOCdevkit/VOC2007 below it.

    `None` if there is none, or more than one.
    """
    candidates = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    found = [path for path in candidates if is_voc(path)]
    return found[0] if len(found) == 1 else None


def is_voc(path: Path) -> bool:
    """Whether a folder has the folders that VOC's form needs."""
    return (path / "JPEGImages").is_dir() and (path / "Annotations").is_dir()


def _split(root: Path, split: str) -> list[str]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.txt")] if folder.is_dir() else []
        if not known:
            raise SubbyteError(f"{folder} holds no lists of images: write one to {split}.txt")
        raise unknown(f"split of {root}", split, known)
    names = [_name(line, root) for line in read_lines(path)]
    if not names:
        raise SubbyteError(f"{path} lists no images: write one name a line")
    return names


def _name(line: str, root: Path) -> str:
    """The image's name in a line, which in VOC's lists for one class ends in 1, 0 or -1."""
    name, _, mark = line.rpartition(" ")
    if mark in ("1", "0", "-1") and not (root / "Annotations" / f"{line}.xml").exists():
        return name.strip()
    return line


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise SubbyteError(
            f"annotations {path} cannot be read ({error.strerror}): every image of a split "
            "needs them"
        ) from None
    except ElementTree.ParseError as error:
        raise SubbyteError(f"{path} is cut off or not XML ({error}): give a whole file") from None


def _classes(root: Path) -> tuple[str, ...]:
    """The classes of all annotations, whatever the split, so that every split has the same."""
    names: set[str] = set()
    for path in sorted((root / "Annotations").glob("*.xml")):
        try:
            tree = ElementTree.parse(path)
        except ElementTree.ParseError:  # reported where the file belongs to a split that is read
            continue
        names.update((name.text or "").strip() for name in tree.iterfind("object/name"))
    if names <= set(VOC):
        return VOC
    return tuple(sorted(names))


def _annotated(
    image: Path, number: int, tree: ElementTree.Element, classes: Sequence[str], path: Path
) -> Annotated:
    labels = {name: label for label, name in enumerate(classes, 1)}
    objects = tree.findall("object")
    names = [(found.findtext("name") or "").strip() for found in objects]
    for i, name in enumerate(names, 1):
        if name not in labels:
            raise SubbyteError(f"object {i} of {path}: {unknown('class', name, classes)}")
    boxes = [_box(found, i, path) for i, found in enumerate(objects, 1)]
    size = [_integer(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    count = len(objects)
    return Annotated(
        path=image,
        image_id=number,
        size=(size[0], size[1]) if all(size) else None,
        boxes=np.array(boxes, np.float64).reshape(-1, 4) - (1, 1, 0, 0),
        labels=np.array([labels[name] for name in names], np.int64),
        area=np.full(count, np.nan),
        iscrowd=np.zeros(count, bool),
        difficult=np.array([_integer(o.findtext("difficult")) != 0 for o in objects], bool),
        where=path,
        kind="object",
        numbers=range(1, count + 1),
    )


def _box(found: ElementTree.Element, number: int, path: Path) -> list[float]:
    texts = [found.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        return [float(text or "") for text in texts]
    except ValueError:
        raise SubbyteError(
            f"object {number} of {path} has no box: give a bndbox with the numbers "
            f"{', '.join(_CORNERS)}"
        ) from None


def _integer(text: str | None) -> int:
    try:
        return int(float(text or 0))
    except ValueError:
        return 0
