from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from torchvision.datasets import ImageFolder

from subbyte.data import DataConfig
from subbyte.data.folders import image_roots, list_calibration, list_evaluation, read_classes

if TYPE_CHECKING:
    from .conftest import Draw, Refuses


def test_evaluation_agrees_with_image_folder(pets: Path, draw: Draw) -> None:
    draw(pets / "val" / "Zebra" / "deep" / "1.png")  # upper case sorts before lower case
    listing, classes = list_evaluation(pets / "val")
    folder = ImageFolder(pets / "val")
    assert list(classes) == folder.classes == ["Zebra", "cat", "dog"]
    assert listing.labels is not None
    assert [(str(p), n) for p, n in zip(listing.paths, listing.labels, strict=True)] == folder.imgs
    assert listing.labels == (0, 1, 1, 1, 2, 2, 2)


def test_classes_file_gives_the_order(pets: Path, tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffdog\nbird\r\n  cat \n\n", encoding="utf-8")
    listing, classes = list_evaluation(pets / "val", file)
    assert classes == ("dog", "bird", "cat")
    assert listing.labels == (2, 2, 2, 0, 0, 0)


def test_class_folder_that_is_not_in_the_file(pets: Path, tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "classes.txt").write_text("cat\nbird\n")
    with refuses("class folder 'dog'"):
        list_evaluation(pets / "val", tmp_path / "classes.txt")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"cat\n\ndog\n", "line 2 of data.classes"),
        (b"cat\ndog\ncat\n", "line 3 of data.classes"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_classes_files(tmp_path: Path, refuses: Refuses, text: bytes, told: str) -> None:
    (tmp_path / "classes.txt").write_bytes(text)
    with refuses(told):
        read_classes(tmp_path / "classes.txt")


def test_missing_classes_file(tmp_path: Path, refuses: Refuses) -> None:
    with refuses("data.classes"):
        read_classes(tmp_path / "classes.txt")


def test_evaluation_needs_class_folders(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    draw(tmp_path / "flat" / "1.png")
    with refuses("has no class folders"):
        list_evaluation(tmp_path / "flat")


def test_evaluation_image_without_a_class(pets: Path, draw: Draw, refuses: Refuses) -> None:
    draw(pets / "val" / "stray.png")
    with refuses(f"image {pets / 'val' / 'stray.png'} has no label"):
        list_evaluation(pets / "val")


def test_empty_class_folder(pets: Path, tmp_path: Path, refuses: Refuses) -> None:
    (pets / "val" / "bird").mkdir()
    with refuses(f"class folder {pets / 'val' / 'bird'} holds no images"):
        list_evaluation(pets / "val")
    (tmp_path / "classes.txt").write_text("bird\ncat\ndog\n")
    listing, _ = list_evaluation(pets / "val", tmp_path / "classes.txt")
    assert listing.labels == (1, 1, 1, 2, 2, 2)


def test_folder_without_images(tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").touch()
    with refuses(f"evaluation folder {tmp_path} holds no images"):
        list_evaluation(tmp_path)
    with refuses(f"calibration folder {tmp_path} holds no images"):
        list_calibration(tmp_path, ["cat"])


def test_calibration_labels_are_those_of_evaluation(pets: Path) -> None:
    listing = list_calibration(pets / "train", ("bird", "dog", "cat"))
    assert listing.labels == (2, 2, 2, 1, 1, 1)


def test_calibration_may_be_flat_mixed_or_of_other_classes(pets: Path, draw: Draw) -> None:
    assert list_calibration(pets / "train" / "cat", ("cat", "dog")).labels is None
    assert list_calibration(pets / "train", ("cat", "bird")).labels is None
    draw(pets / "train" / "stray.png")
    mixed = list_calibration(pets / "train", ("cat", "dog"))
    assert mixed.labels is None
    assert len(mixed.paths) == 7


def test_roots(pets: Path) -> None:
    assert image_roots(DataConfig(root=pets)) == (pets / "train", pets / "val")
    two = DataConfig(calibration=pets / "val", evaluation=pets / "train")
    assert image_roots(two) == (pets / "val", pets / "train")


def test_root_without_val_tells_what_it_found(pets: Path, tmp_path: Path, refuses: Refuses) -> None:
    (pets / "val").rename(pets / "test")
    with refuses("has no folder val (found: test/, train/)"):
        image_roots(DataConfig(root=pets))
    with refuses("data.calibration and data.evaluation"):
        image_roots(DataConfig(root=pets))
    (tmp_path / "bare").mkdir()
    with refuses("has no folder train and no folder val (found: no folders)"):
        image_roots(DataConfig(root=tmp_path / "bare"))


def test_missing_folders_and_files(pets: Path, draw: Draw, refuses: Refuses) -> None:
    file = draw(pets / "file.png")
    with refuses(f"data.root {pets / 'none'} does not exist"):
        image_roots(DataConfig(root=pets / "none"))
    with refuses(f"data.calibration {file} is a file"):
        image_roots(DataConfig(calibration=file, evaluation=pets))
    with refuses(f"data.evaluation {pets / 'none'} does not exist"):
        image_roots(DataConfig(calibration=pets, evaluation=pets / "none"))
