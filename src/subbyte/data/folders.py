"""Folders of images, and the class folder that each image lies in."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from subbyte.data.config import DataConfig
from subbyte.data.images import image_files, subfolders
from subbyte.errors import SubbyteError

CALIBRATED = ("train", "training", "calib", "calibration")  # folders that are not evaluated
SPLITS = (*CALIBRATED, "val", "valid", "validation", "test", "testing")


@dataclass(frozen=True)
class FolderListing:
    """Image files, and for each the folder that it lies in, directly or deeper, below the root.

    Attributes:
        paths: The files.
        folders: The names of those folders; `None` for an image that lies in none.
    """

    paths: tuple[Path, ...]
    folders: tuple[str | None, ...]

    def take(self, indices: Sequence[int]) -> FolderListing:
        """The images at `indices`, in that order."""
        return FolderListing(
            tuple(self.paths[i] for i in indices), tuple(self.folders[i] for i in indices)
        )

    def without(self, paths: Collection[Path]) -> FolderListing:
        """The images that are not among `paths`."""
        return self.take([i for i, path in enumerate(self.paths) if path not in paths])


def image_roots(config: DataConfig) -> tuple[Path, Path]:
    """The calibration and the evaluation folder that `config` names.

    Raises `SubbyteError` if a folder is missing, is a file, or `root` lacks train/ or val/.
    """
    if config.root is not None:
        root = existing_folder(config.root, "data.root")
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
        existing_folder(config.calibration, "data.calibration"),
        existing_folder(config.evaluation, "data.evaluation"),
    )


def list_evaluation(folder: Path) -> tuple[FolderListing, tuple[str, ...]]:
    """The images of `folder`, sorted by path, and the names of its class folders, sorted.

    Each folder in `folder` is a class. Raises `SubbyteError` if there are no class folders or no
    images, and if an image lies outside of the class folders.
    """
    names = subfolders(folder)
    if not names:
        raise SubbyteError(
            f"evaluation folder {folder} has no class folders: "
            "give one that holds a folder of images for each class"
        )
    if all(name.lower() in SPLITS and subfolders(folder / name) for name in names):
        evaluated = [name for name in names if name.lower() not in CALIBRATED] or names
        raise SubbyteError(
            f"the folders in evaluation folder {folder} are those of splits and not of classes: "
            f"give {' or '.join(str(folder / name) for name in evaluated)}"
        )
    listing = _listed(folder, "evaluation")
    outside = [path for path, name in zip(listing.paths, listing.folders, strict=True) if not name]
    if outside:
        raise SubbyteError(
            f"image {outside[0]} has no label: every evaluation image must lie "
            "in the folder of its class"
        )
    return listing, tuple(names)


def list_calibration(folder: Path) -> FolderListing:
    """The images of `folder`, at any depth, sorted by path.

    Raises `SubbyteError` if there are none.
    """
    return _listed(folder, "calibration")


def _listed(folder: Path, purpose: str) -> FolderListing:
    paths = image_files(folder)
    if not paths:
        raise SubbyteError(
            f"{purpose} folder {folder} holds no images: "
            "give one with JPEG, PNG or other image files"
        )
    parts = [path.relative_to(folder).parts for path in paths]
    return FolderListing(
        tuple(paths), tuple(names[0] if len(names) > 1 else None for names in parts)
    )


def existing_folder(path: Path, key: str) -> Path:
    """`path`; raises `SubbyteError`, which calls it `key`, if it is not a folder."""
    if path.is_dir():
        return path
    fault = "is a file" if path.exists() else "does not exist"
    raise SubbyteError(f"{key} {path} {fault}: give a folder of images")


def _found(folder: Path) -> str:
    names = subfolders(folder)
    shown = [f"{name}/" for name in names[:6]] + (["…"] if len(names) > 6 else [])
    return ", ".join(shown) or "no folders"
