from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from detection_readers import read_voc

from subbyte.data.categories import VOC
from subbyte.data.detection import of_listing
from subbyte.data.detection.voc import voc_root

if TYPE_CHECKING:
    from .conftest import Refuses, WriteVoc

FOLDER = os.environ.get("SUBBYTE_DATA")


def test_boxes_count_pixels_from_1_and_include_their_last(
    tmp_path: Path, write_voc: WriteVoc
) -> None:
    images = {
        "a": [("zebra", (1, 1, 40, 30)), ("ant", (11, 6, 20, 10), 1)],
        "b c": [],
    }
    found = read_voc(write_voc(tmp_path, "train", images), "train")
    assert found.classes == ("ant", "zebra")
    assert found.category_ids == {1: 1, 2: 2}
    first, second = found.objects
    assert first.boxes.tolist() == [[0, 0, 40, 30], [10, 5, 20, 10]]  # the first: the whole image
    assert first.area.tolist() == [1200, 50]
    assert first.labels.tolist() == [2, 1]
    assert first.difficult.tolist() == [False, True]
    assert first.size == (30, 40)
    assert len(second) == 0
    assert [o.image_id for o in found.objects] == [1, 2]
    assert of_listing(found).to_learn_from().objects[0].labels.tolist() == [2]


def test_vocs_own_classes_are_all_there_in_their_order(tmp_path: Path, write_voc: WriteVoc) -> None:
    write_voc(tmp_path, "val", {"a": [("person", (1, 1, 9, 9)), ("cat", (1, 1, 9, 9))]})
    found = read_voc(tmp_path, "val")
    assert found.classes == VOC
    assert len(VOC) == 20
    assert found.objects[0].labels.tolist() == [15, 8]


def test_every_split_has_the_classes_of_all(tmp_path: Path, write_voc: WriteVoc) -> None:
    write_voc(tmp_path, "train", {"a": [("x", (1, 1, 9, 9))], "b": [("y", (1, 1, 9, 9))]})
    write_voc(tmp_path, "val", {"c": [("y", (1, 1, 9, 9))]})
    assert read_voc(tmp_path, "val").classes == ("x", "y")
    assert read_voc(tmp_path, "val").objects[0].labels.tolist() == [2]
    assert read_voc(tmp_path, "val", ["y", "x"]).objects[0].labels.tolist() == [1]


def test_lists_of_one_class_name_images_too(tmp_path: Path, write_voc: WriteVoc) -> None:
    write_voc(tmp_path, "val", {"a": [], "b": [], "no 1": []})
    (tmp_path / "ImageSets/Main/cat_val.txt").write_text("a  1\nb -1\nno 1\n\n")
    assert [path.stem for path in read_voc(tmp_path, "cat_val").paths] == ["a", "b", "no 1"]


def test_boxes_that_are_none_are_counted_and_named(tmp_path: Path, write_voc: WriteVoc) -> None:
    images = {"a": [("x", (9, 1, 8, 9)), ("x", (41, 1, 50, 9)), ("x", ("nan", 1, 5, 9))]}
    found = read_voc(write_voc(tmp_path, "val", images), "val")
    assert len(found.objects[0]) == 0
    file = tmp_path / "Annotations/a.xml"
    assert set(found.notes) == {
        f"boxes of no area, left out: 1 (the first: object 1 of {file})",
        f"boxes outside of the image, left out: 1 (the first: object 2 of {file})",
        "boxes with a coordinate that is not a number, left out: 1 "
        f"(the first: object 3 of {file})",
    }


def test_a_size_that_is_not_stated_is_looked_up(tmp_path: Path, write_voc: WriteVoc) -> None:
    write_voc(tmp_path, "val", {"a": [("x", (1, 1, 9, 9))]})
    file = tmp_path / "Annotations/a.xml"
    file.write_text(file.read_text().replace("<width>40", "<width>0"))
    assert read_voc(tmp_path, "val").objects[0].size == (30, 40)


def test_what_is_wrong_is_named(tmp_path: Path, write_voc: WriteVoc, refuses: Refuses) -> None:
    write_voc(tmp_path, "val", {"a": [("x", (1, 1, 9, 9))], "b": []})
    with refuses(f"unknown split of {tmp_path} 'vall': did you mean 'val'?"):
        read_voc(tmp_path, "vall")
    with refuses("unknown class 'x': did you mean 'xx'?", "object 1 of"):
        read_voc(tmp_path, "val", ["xx"])
    file = tmp_path / "Annotations/a.xml"
    whole = file.read_text()
    file.write_text(whole[:-30])
    with refuses(f"{file} is cut off or not XML"):
        read_voc(tmp_path, "val")
    file.write_text(whole.replace("<xmax>9</xmax>", ""))
    with refuses(f"object 1 of {file} has no box"):
        read_voc(tmp_path, "val")
    file.write_text(whole)
    (tmp_path / "JPEGImages/a.jpg").unlink()
    with refuses(f"{file} is of an image that is not in {tmp_path / 'JPEGImages'}"):
        read_voc(tmp_path, "val")
    file.unlink()
    with refuses(f"annotations {file} cannot be read"):
        read_voc(tmp_path, "val")
    (tmp_path / "ImageSets/Main/val.txt").write_text("\n")
    with refuses("val.txt lists no images"):
        read_voc(tmp_path, "val")


def test_vocs_archive(tmp_path: Path, write_voc: WriteVoc) -> None:
    inner = write_voc(tmp_path / "VOCdevkit/VOC2007", "val", {"a": []})
    assert voc_root(tmp_path) == inner
    assert voc_root(inner) == inner
    write_voc(tmp_path / "VOCdevkit/VOC2012", "val", {"a": []})
    assert voc_root(tmp_path) is None


@pytest.mark.skipif(not FOLDER, reason="SUBBYTE_DATA, a folder of real data, is not set")
def test_blood_cells() -> None:
    root = Path(str(FOLDER)) / "bccd" / "BCCD"
    splits = {name: read_voc(root, name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 205, "val": 87, "test": 72,
    }  # fmt: skip
    # As counted by grep over the XML files: 4888 names of objects, none difficult.
    assert sum(len(o) for split in splits.values() for o in split.objects) == 4888
    assert all(split.classes == ("Platelets", "RBC", "WBC") for split in splits.values())
    assert not any(split.notes for split in splits.values())
    image, target = of_listing(splits["test"])[0]
    assert image.shape == (3, 480, 640)
    assert target["boxes"].shape == (len(target["labels"]), 4)
