"""Folders of images, and the class that each image's folder stands for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from subbyte.data.config import DataConfig
from subbyte.data.images import image_files, subfolders
from subbyte.errors import SubbyteError


@dataclass(frozen=True)
class Listing:
    """Image files, with one label each if their classes are known."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None

    def take(self, indices: Sequence[int]) -> Listing:
        """The images at `indices`, in that order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return Listing(tuple(self.paths[i] for i in indices), labels)

    def without(self, paths: Collection[Path]) -> Listing:
        """The images that are not among `paths`."""
        return self.take([i for i, path in enumerate(self.paths) if path not in paths])


def image_roots(config: DataConfig) -> tuple[Path, Path]:
    """The calibration and the evaluation folder that `config` names.

    Raises `SubbyteError` if a folder is missing, is a file, or `root` lacks train/ or val/.
    """
    if config.root is not None:
        root = _folder(config.root, "data.root")
        missing = [name for name in ("train", "val") if not (root / name).is_dir()]
        if missing:
            raise SubbyteError(
                f"data.root {root} has no folder {' and no folder '.join(missing)} "
                f"(found: {_found(root)}): give one with train/ and val/, "
                "or name any two folders with data.calibration and data.evaluation"
            )
        return root / "train", root / "val"
    if config.calibration is None or config.evaluation is None:
        raise SubbyteError("data names no folders: give root, or calibration and evaluation")
    return (
        _folder(config.calibration, "data.calibration"),
        _folder(config.evaluation, "data.evaluation"),
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line, in the order of the model's outputs.

    Raises `SubbyteError` if the file cannot be read as text, is empty, has an empty line between
    others, or names a class twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SubbyteError(
            f"data.classes {path} cannot be read: give a text file with one class per line"
        ) from error
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names:
        raise SubbyteError(f"data.classes {path} is empty: give one class per line")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name or name in seen:
            fault = f"repeats '{name}'" if name else "is empty"
            raise SubbyteError(
                f"line {number} of data.classes {path} {fault}: each line must name another class"
            )
        seen.add(name)
    return names


def list_evaluation(
    folder: Path, classes_file: Path | None = None
) -> tuple[Listing, tuple[str, ...]]:
    """The labelled images of `folder`, sorted by path, and the class names in the model's order.

    Each folder in `folder` is a class. Its label is its place in alphabetical order or, with
    `classes_file`, its line (from 0). Raises `SubbyteError` if there are no class folders or no
    images, if a class folder is not in the file or (without a file) empty, and if an image lies
    outside of the class folders.
    """
    names = subfolders(folder)
    if not names:
        raise SubbyteError(
            f"evaluation folder {folder} has no class folders: "
            "give one that holds a folder of images for each class"
        )
    paths = _images(folder, "evaluation")
    classes = _class_order(folder, names, classes_file)
    present = [path.relative_to(folder).parts for path in paths]
    outside = [parts[0] for parts in present if len(parts) == 1]
    if outside:
        raise SubbyteError(
            f"image {folder / outside[0]} has no label: every evaluation image must lie "
            "in the folder of its class"
        )
    empty = set(names) - {parts[0] for parts in present}
    if empty and classes_file is None:
        raise SubbyteError(
            f"class folder {folder / min(empty)} holds no images: "
            "remove it if it is no class, or list all classes in a file and give it as data.classes"
        )
    number = {name: i for i, name in enumerate(classes)}
    return Listing(paths, tuple(number[parts[0]] for parts in present)), classes


def list_calibration(folder: Path, classes: Sequence[str]) -> Listing:
    """The images of `folder`, at any depth, sorted by path.

    They have labels if all lie in folders that are named as `classes`. Raises `SubbyteError` if
    there are no images.
    """
    paths = _images(folder, "calibration")
    number = {name: i for i, name in enumerate(classes)}
    labels = []
    for path in paths:
        parts = path.relative_to(folder).parts
        if len(parts) == 1 or parts[0] not in number:
            return Listing(paths, None)
        labels.append(number[parts[0]])
    return Listing(paths, tuple(labels))


def _class_order(folder: Path, names: list[str], classes_file: Path | None) -> tuple[str, ...]:
    if classes_file is None:
        return tuple(names)
    classes = read_classes(classes_file)
    strangers = sorted(set(names) - set(classes))
    if strangers:
        raise SubbyteError(
            f"class folder '{strangers[0]}' in {folder} is not in data.classes {classes_file}: "
            "every class folder must be named by one of its lines"
        )
    return classes


def _images(folder: Path, purpose: str) -> tuple[Path, ...]:
    paths = image_files(folder)
    if not paths:
        raise SubbyteError(
            f"{purpose} folder {folder} holds no images: "
            "give one with JPEG, PNG or other image files"
        )
    return tuple(paths)


def _folder(path: Path, key: str) -> Path:
    if path.is_dir():
        return path
    fault = "is a file" if path.exists() else "does not exist"
    raise SubbyteError(f"{key} {path} {fault}: give a folder of images")


def _found(folder: Path) -> str:
    names = subfolders(folder)
    shown = [f"{name}/" for name in names[:6]] + (["…"] if len(names) > 6 else [])
    return ", ".join(shown) or "no folders"
