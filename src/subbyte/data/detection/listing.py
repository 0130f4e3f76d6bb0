"""Images and the objects on them, as plain data, whatever form the files have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from subbyte.data.images import ImageInfo, look
from subbyte.errors import SubbyteError


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects on one image, n of them, and what is known of the image.

    Attributes:
        image_id: The image's number.
        size: Its height and width in pixels.
        boxes: (n, 4) float32, each (x0, y0, x1, y1) in pixels from the upper left corner.
        labels: (n,) int64, from 1, because 0 is the background.
        area: (n,) float64, in square pixels; it decides whether an object counts as small, medium
            or large.
        iscrowd: (n,) bool, many objects in one box.
        difficult: (n,) bool, objects that count neither as found nor as missed.
    """

    image_id: int
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def only(self, keep: np.ndarray) -> Objects:
        """The objects at which `keep`, (n,) bool, is true."""
        names = ("boxes", "labels", "area", "iscrowd", "difficult")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def relabelled(self, labels: Mapping[int, int]) -> Objects:
        """The same with other labels; `labels`: those here → those wanted."""
        new = [labels[label] for label in self.labels.tolist()]
        return replace(self, labels=np.array(new, np.int64))

    def target(self) -> dict[str, torch.Tensor | int]:
        """The same as torchvision's detectors and their training scripts take it."""
        return {
            "boxes": torch.tensor(self.boxes),
            "labels": torch.tensor(self.labels),
            "image_id": self.image_id,
            "area": torch.tensor(self.area).float(),
            "iscrowd": torch.tensor(self.iscrowd).long(),
        }


@dataclass(frozen=True)
class Annotated:
    """One image as its annotations have it, before anything is checked.

    Attributes:
        path: The image file.
        image_id: Its number.
        size: Height and width that the annotations state; `None`: they state none.
        boxes: (n, 4) float64, x0, y0, x1, y1, in pixels or, if `relative`, in widths and heights of
            the image.
        labels: (n,) int64, from 1.
        area: (n,) float64, in square pixels; NaN where none is stated.
        iscrowd: (n,) bool.
        difficult: (n,) bool.
        where: The file of the annotations.
        kind: What messages call one of them ("annotation 17 of FILE").
        numbers: The number of each in the file, for messages.
        relative: Whether boxes are in widths and heights of the image.
    """

    path: Path
    image_id: int
    size: tuple[int, int] | None
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    difficult: np.ndarray
    where: Path
    kind: str
    numbers: Sequence[int]
    relative: bool = False


@dataclass(frozen=True)
class Listing:
    """A set of images and what is on them.

    Attributes:
        paths: The image files.
        objects: What is on each.
        classes: The class names, that of label 1 first.
        category_ids: Label → the number that the data set itself has for the class.
        notes: What the reader of figures must know.
        labelled: Whether the objects are known at all.
    """

    paths: tuple[Path, ...]
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]
    category_ids: Mapping[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.paths)


def settle(
    annotated: Sequence[Annotated],
    classes: Sequence[str],
    category_ids: Mapping[int, int],
    infos: Mapping[Path, ImageInfo] | None = None,
    *,
    labelled: bool = True,
) -> Listing:
    """The listing of what was read: boxes in pixels, those that are not valid left out.

    A box is left out if a coordinate is not a number, or if it has no area or no point in the
    image; the listing's `notes` count these, and name the first.

    Args:
        annotated: The images as their annotations have them.
        classes: The class names, that of label 1 first.
        category_ids: Label → the data set's own number.
        infos: What is known of the image files; a file whose size is needed and not known is
            opened.
        labelled: Whether the objects are known at all.

    Raises:
        SubbyteError: The annotations state another size than the image has.
    """
    left_out: dict[str, list[str]] = {}
    objects = [_settled(image, infos, left_out) for image in annotated]
    notes = [
        f"boxes {fault}, left out: {len(names)} (the first: {names[0]})"
        for fault, names in left_out.items()
    ]
    return Listing(
        paths=tuple(image.path for image in annotated),
        objects=tuple(objects),
        classes=tuple(classes),
        category_ids=dict(category_ids),
        notes=tuple(notes),
        labelled=labelled,
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the space around them.

    Raises `SubbyteError` if it cannot be read as text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SubbyteError(f"{path} cannot be read ({error.strerror}): give a text file") from None
    except UnicodeDecodeError:
        raise SubbyteError(f"{path} is not text in UTF-8: give a text file") from None
    return [line.strip() for line in lines if line.strip()]


def size_fault(image: Annotated, infos: ImageInfo) -> str | None:
    """What is wrong if the annotations state another size than the image has; end of a sentence."""
    if image.size is None or image.size == infos.size or infos.fault is not None:
        return None
    (height, width), (high, wide) = infos.size, image.size
    turned = ", turned as its EXIF orientation says," if infos.turned else ""
    return (
        f"is {width} pixels wide and {height} high{turned} and {image.where} has it as {wide} wide "
        f"and {high} high, so that its boxes do not fit"
    )


def coco_form(
    objects: Sequence[Objects],
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    category_ids: Mapping[int, int] | None = None,
) -> dict[str, list[dict[str, object]]]:
    """The ground truth as a dictionary in the form of COCO's `instances_*.json`.

    Annotations are numbered from 1, because COCO's own evaluation takes 0 for "not found". Objects
    that are difficult have a true `difficult`.

    Args:
        objects: What is on each image.
        classes: The class names, that of label 1 first.
        names: The images' file names; `None`: by their ids.
        category_ids: Label → `category_id`; `None`: the label itself.
    """
    ids = category_ids or {label: label for label in range(1, len(classes) + 1)}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for i, found in enumerate(objects):
        name = names[i] if names is not None else f"{found.image_id}.png"
        height, width = found.size
        images.append({"id": found.image_id, "file_name": name, "width": width, "height": height})
        for j, (x0, y0, x1, y1) in enumerate(found.boxes.tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": found.image_id,
                    "category_id": ids[int(found.labels[j])],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(found.area[j]),
                    "iscrowd": int(found.iscrowd[j]),
                    "difficult": int(found.difficult[j]),
                }
            )
    categories: list[dict[str, object]] = [
        {"id": ids[label], "name": name} for label, name in enumerate(classes, 1) if label in ids
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _settled(
    image: Annotated, infos: Mapping[Path, ImageInfo] | None, left_out: dict[str, list[str]]
) -> Objects:
    seen = None if infos is None else infos.get(image.path)
    if seen is None and image.size is None:
        seen = look(image.path)
    if seen is not None:
        fault = seen.fault or size_fault(image, seen)
        if fault is not None:
            raise SubbyteError(f"image {image.path} {fault}: mend it, or leave it out")
    size = seen.size if seen is not None else image.size
    assert size is not None
    height, width = size
    boxes = image.boxes * (width, height, width, height) if image.relative else image.boxes
    keep = np.ones(len(boxes), bool)
    for fault, bad in _faults(boxes, width, height).items():
        left_out_now = keep & bad
        keep &= ~bad
        for i in np.flatnonzero(left_out_now).tolist():
            name = f"{image.kind} {image.numbers[i]} of {image.where}"
            left_out.setdefault(fault, []).append(name)
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.where(np.isnan(image.area), sides.prod(1), image.area)
    whole = Objects(
        image_id=image.image_id,
        size=size,
        boxes=boxes.astype(np.float32),
        labels=image.labels,
        area=area,
        iscrowd=image.iscrowd,
        difficult=image.difficult,
    )
    return whole if keep.all() else whole.only(keep)


def _faults(boxes: np.ndarray, width: int, height: int) -> dict[str, np.ndarray]:
    x0, y0, x1, y1 = boxes.T
    outside = (x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height)
    return {
        "with a coordinate that is not a number": ~np.isfinite(boxes).all(1),
        "of no area": ~((x1 > x0) & (y1 > y0)),
        "outside of the image": outside,
    }
