"""Where the images and annotations of a data set for detectors lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from subbyte.data.config import Annotations, DataConfig, Format, Splits
from subbyte.data.detection.coco import FoundImages, find_coco
from subbyte.data.detection.labels import without_background
from subbyte.data.detection.listing import Annotated
from subbyte.data.detection.voc import find_voc, voc_root
from subbyte.data.detection.yolo import find_yolo, images_of, labels_of, read_names, read_yaml
from subbyte.data.folders import existing_folder
from subbyte.data.images import image_files
from subbyte.errors import SubbyteError

Side = Literal["calibration", "evaluation"]
# What the tools of one split call it, and what the data sets do.
ALIASES = {"val": ("valid", "validation"), "valid": ("val", "validation")}
YEAR = "20[0-9][0-9]"
ROBOFLOW = "_annotations.coco.json"


def format_of(config: DataConfig) -> Format:
    """The format of `config`'s annotations: the one that it names, or the one that the files show.

    Raises `SubbyteError` if they show nothing, or more than one.
    """
    if config.format is not None:
        return config.format
    if isinstance(config.annotations, Path):
        return "yolo" if config.annotations.suffix in (".yaml", ".yml") else "coco"
    if isinstance(config.annotations, Annotations):
        return "coco"
    folder = _folder(config, "evaluation")
    found = formats_in(folder)
    if len(found) == 1:
        return found[0]
    shown = f"may be {' or '.join(found)}" if found else "holds no annotations that are known"
    raise SubbyteError(
        f"{folder} {shown}: give data.format, which is coco, voc or yolo, and for coco "
        "data.annotations where its JSON file lies elsewhere"
    )


def formats_in(folder: Path) -> list[Format]:
    """The formats that the files in a folder show."""
    found: list[Format] = []
    if _coco_files(folder):
        found.append("coco")
    if voc_root(folder) is not None:
        found.append("voc")
    if _data_yaml(folder) is not None or _has_labels(folder):
        found.append("yolo")
    return found


def check_names(config: DataConfig) -> None:
    """Refuse what can be seen to be wrong of a data set's class names before images are looked at.

    Raises:
        SubbyteError: A file of names is missing or holds none, or YOLO's images have none.
    """
    if config.classes is not None:
        read_names(config.classes)
    elif format_of(config) == "yolo":
        for side in ("calibration", "evaluation"):
            read_names(_yolo_names(config, _folder(config, side)))


def find(config: DataConfig, side: Side) -> tuple[FoundImages, bool]:
    """The images of one side of `config`, and whether it is known what is on them.

    Raises `SubbyteError` if something is not where the format has it.
    """
    split = getattr(config.splits or Splits(), side)
    names = None if config.classes is None else without_background(read_names(config.classes))
    match format_of(config):
        case "coco":
            return _find_coco(config, side, split)
        case "voc":
            folder = _folder(config, side)
            root = voc_root(folder)
            if root is None:
                raise SubbyteError(
                    f"{folder} has no folders JPEGImages and Annotations (or several data sets "
                    "have): give data.root, a data set in Pascal VOC's layout"
                )
            return find_voc(root, split, names), True
        case "yolo":
            images, file = _yolo_images(config, side, split)
            return find_yolo(images, names if names is not None else read_names(file)), True


def _folder(config: DataConfig, side: Side) -> Path:
    key = "root" if config.root is not None else side
    folder = getattr(config, key)
    if folder is None:
        raise SubbyteError("data names no folders: give root, or calibration and evaluation")
    return existing_folder(folder, f"data.{key}")


def _spellings(split: str) -> tuple[str, ...]:
    return (split, *ALIASES.get(split, ()))


def _find_coco(config: DataConfig, side: Side, split: str) -> tuple[FoundImages, bool]:
    folder = _folder(config, side)
    given = config.annotations
    if isinstance(given, Annotations):
        file = getattr(given, side)
    else:
        file = None if config.root is None and side == "calibration" else given
    if config.root is not None:
        images = _images_of_split(folder, split)
        if side == "calibration" and file is None and images and not _json_files(folder, split):
            return unlabelled(images), False
        file = file or _instances(folder, split)
        name = file.stem.removeprefix("instances_")
        places = [folder / top / part for part in (name, split) for top in ("", "images")]
        beside = [file.parent] if file.name == ROBOFLOW else []
        folders = [*beside, *(p for p in places if p.is_dir()), folder / "images", folder]
        return find_coco(folders if given is None else [*folders, file.parent], file), True
    if file is None:
        inside = [*sorted(folder.glob("instances*.json")), *sorted(folder.glob(ROBOFLOW))]
        file = inside[0] if len(inside) == 1 else None
    if file is not None:
        return find_coco([folder], file), True
    if side == "evaluation":
        raise SubbyteError(
            f"nothing says what is on the images in {folder}: give data.annotations, a JSON file "
            "in COCO's form"
        )
    return unlabelled(folder), False


def _instances(root: Path, split: str) -> Path:
    """The one JSON file of a split below `root`."""
    found = _json_files(root, split)
    if len(found) == 1:
        return found[0]
    if found:
        raise SubbyteError(
            f"{root} has {' and '.join(str(p.relative_to(root)) for p in found)} for the split "
            f"{split}: name one in data.splits, as {found[0].stem.removeprefix('instances_')}"
        )
    known = ", ".join(str(path.relative_to(root)) for path in _coco_files(root)[:6])
    raise SubbyteError(
        f"{root} has no annotations/instances_{split}.json, with or without a year (found: "
        f"{known or 'no JSON file'}): name the splits in data.splits, or files in data.annotations"
    )


def _json_files(root: Path, split: str) -> list[Path]:
    found: list[Path] = []
    for name in _spellings(split):
        patterns = (f"instances_{name}", f"instances_{name}{YEAR}", name)
        places = [root / "annotations", root]
        found += [p for f in places for pattern in patterns for p in f.glob(f"{pattern}.json")]
        found += (root / name).glob(ROBOFLOW)
    return found


def _images_of_split(root: Path, split: str) -> Path | None:
    """The one folder called like a split, with or without a year."""
    tops = (root, root / "images")
    found = [p for top in tops for n in (split, f"{split}{YEAR}") for p in top.glob(n)]
    return found[0] if len(found) == 1 and found[0].is_dir() else None


def _coco_files(root: Path) -> list[Path]:
    patterns = ("annotations/*.json", "instances*.json", ROBOFLOW, f"*/{ROBOFLOW}")
    return [path for pattern in patterns for path in sorted(root.glob(pattern))]


def unlabelled(folder: Path) -> FoundImages:
    """The images of a folder without annotations."""
    paths = image_files(folder)
    if not paths:
        raise SubbyteError(
            f"calibration folder {folder} holds no images: give one with JPEG, PNG or other image "
            "files"
        )
    nothing = np.zeros(0, bool)
    annotated = [
        Annotated(
            path=path,
            image_id=number,
            size=None,
            boxes=np.zeros((0, 4)),
            labels=np.zeros(0, np.int64),
            area=np.zeros(0),
            iscrowd=nothing,
            difficult=nothing,
            where=folder,
            kind="object",
            numbers=(),
        )
        for number, path in enumerate(paths, 1)
    ]
    return FoundImages(tuple(annotated), (), {})


def _yolo_images(config: DataConfig, side: Side, split: str) -> tuple[Sequence[Path], Path]:
    """The images of a side, and the file that names the classes."""
    folder = _folder(config, side)
    yaml = _yolo_yaml(config, folder)
    names = _yolo_names(config, folder)
    if config.root is None:
        return image_files(folder), names
    if yaml is not None:
        content = read_yaml(yaml)
        for name in _spellings(split):
            if content.get(name):
                return images_of(content, name, yaml), names
    for name in _spellings(split):
        for place in (folder / "images" / name, folder / name / "images", folder / name):
            if place.is_dir():
                return image_files(place), names
    raise SubbyteError(
        f"{folder} has no images/{split} and no {split}/images: name its splits in data.splits, or "
        "folders in data.calibration and data.evaluation"
    )


def _yolo_yaml(config: DataConfig, folder: Path) -> Path | None:
    given = config.annotations if isinstance(config.annotations, Path) else None
    return given or (_data_yaml(folder) if config.root is not None else None)


def _yolo_names(config: DataConfig, folder: Path) -> Path:
    """The file that names the classes of YOLO's images in a folder."""
    names = _yolo_yaml(config, folder) or config.classes or folder / "classes.txt"
    if not names.is_file():
        raise SubbyteError(
            f"nothing names the classes of {folder}: give data.annotations, a data.yaml with "
            "names, or data.classes, a text file with one name a line"
        )
    return names


def _data_yaml(folder: Path) -> Path | None:
    """The one YAML file in a folder that names classes; data.yaml where there is one."""
    if (folder / "data.yaml").is_file():
        return folder / "data.yaml"
    found = [path for path in (*folder.glob("*.yaml"), *folder.glob("*.yml")) if _names(path)]
    return found[0] if len(found) == 1 else None


def _names(path: Path) -> bool:
    try:
        return bool(read_yaml(path).get("names"))
    except SubbyteError:  # a file for something else may hold anything
        return False


def _has_labels(folder: Path) -> bool:
    if (folder / "labels").is_dir() or any(folder.glob("*/labels")):
        return True
    beside = labels_of(folder / "name.jpg").parent
    return beside != folder and beside.is_dir()
