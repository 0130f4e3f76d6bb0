from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torchvision.datasets import ImageFolder

from subbyte.data import DataConfig
from subbyte.data.folders import image_roots, list_calibration, list_evaluation

if TYPE_CHECKING:
    from .conftest import Draw, Refuses


def test_evaluation_lists_what_image_folder_lists(pets: Path, draw: Draw) -> None:
    draw(pets / "val" / "Zebra" / "deep" / "1.png")  # upper case sorts before lower case
    listing, classes = list_evaluation(pets / "val")
    folder = ImageFolder(pets / "val")
    assert list(classes) == folder.classes == ["Zebra", "cat", "dog"]
    listed = zip(listing.paths, listing.folders, strict=True)
    assert [(str(p), classes.index(str(name))) for p, name in listed] == folder.imgs
    assert listing.folders == ("Zebra", "cat", "cat", "cat", "dog", "dog", "dog")


def test_evaluation_needs_class_folders(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    draw(tmp_path / "flat" / "1.png")
    with refuses("has no class folders"):
        list_evaluation(tmp_path / "flat")


def test_evaluation_image_without_a_class(pets: Path, draw: Draw, refuses: Refuses) -> None:
    draw(pets / "val" / "stray.png")
    with refuses(f"image {pets / 'val' / 'stray.png'} has no label"):
        list_evaluation(pets / "val")


def test_an_empty_class_folder_is_listed(pets: Path) -> None:
    (pets / "val" / "bird").mkdir()
    listing, classes = list_evaluation(pets / "val")
    assert classes == ("bird", "cat", "dog")
    assert set(listing.folders) == {"cat", "dog"}


def test_folder_without_images(tmp_path: Path, refuses: Refuses) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").touch()
    with refuses(f"evaluation folder {tmp_path} holds no images"):
        list_evaluation(tmp_path)
    with refuses(f"calibration folder {tmp_path} holds no images"):
        list_calibration(tmp_path)


def test_calibration_may_be_flat_mixed_or_deep(pets: Path, draw: Draw) -> None:
    assert list_calibration(pets / "train" / "cat").folders == (None, None, None)
    draw(pets / "train" / "stray.png")
    draw(pets / "train" / "cat" / "more" / "0.png")
    mixed = list_calibration(pets / "train")
    assert mixed.folders == ("cat", "cat", "cat", "cat", "dog", "dog", "dog", None)
    assert [path.name for path in mixed.paths[3:5]] == ["0.png", "0.png"]


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


def test_folders_of_splits_are_not_classes(pets: Path, refuses: Refuses) -> None:
    with refuses(f"are those of splits and not of classes: give {pets / 'val'}"):
        list_evaluation(pets)


def test_a_class_may_be_called_as_a_split(tmp_path: Path, draw: Draw) -> None:
    for name in ("train", "bus"):
        draw(tmp_path / name / "0.png")
    assert list_evaluation(tmp_path)[1] == ("bus", "train")
