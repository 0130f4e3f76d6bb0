from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from detection_readers import read_coco

from subbyte.data.detection.listing import coco_form

if TYPE_CHECKING:
    from .conftest import Draw, Refuses, WriteCoco

SIZES = {"a.png": (40, 30), "b.png": (40, 30)}


@pytest.fixture
def images(tmp_path: Path, draw: Draw) -> Path:
    for seed, name in enumerate(SIZES):
        draw(tmp_path / "images" / name, seed)
    return tmp_path / "images"


def test_boxes_labels_and_the_sets_own_numbers(images: Path, write_coco: WriteCoco) -> None:
    crowd = {
        "id": 9, "image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 700.5,
        "iscrowd": 1,
    }  # fmt: skip
    path = write_coco(images.parent / "i.json", SIZES, [(1, 7, [1.5, 2, 10, 20]), crowd])
    found = read_coco(images, path)
    assert found.classes == ("cat", "dog")  # by their ids, 3 and 7
    assert found.category_ids == {1: 3, 2: 7}
    assert found.paths == (images / "a.png", images / "b.png")
    first, second = found.objects
    assert (first.image_id, first.size, second.image_id) == (1, (30, 40), 2)
    assert first.boxes.dtype == np.float32
    assert first.boxes.tolist() == [[1.5, 2, 11.5, 22], [0, 0, 40, 30]]
    assert first.labels.dtype == np.int64
    assert first.labels.tolist() == [2, 1]
    assert first.area.tolist() == [200, 700.5]  # the box's own where none is stated
    assert first.iscrowd.tolist() == [False, True]
    assert second.boxes.shape == (0, 4)  # an image without objects stays
    assert found.notes == ()


def test_categories_are_in_the_order_of_their_ids_not_of_the_file(
    images: Path, write_coco: WriteCoco
) -> None:
    path = images.parent / "i.json"
    found = read_coco(images, write_coco(path, SIZES, [(1, 2, [0, 0, 1, 1])], [(9, "z"), (2, "y")]))
    assert found.classes == ("y", "z")
    assert found.objects[0].labels.tolist() == [1]


def test_boxes_that_are_none_are_counted_named_and_left_out(
    images: Path, write_coco: WriteCoco
) -> None:
    rows = [
        (1, 3, [0, 0, 0, 5]),
        (1, 3, [5, 5, 5, 5]),
        (1, 3, [40, 0, 5, 5]),
        (2, 3, [-9, -9, 9, 9]),
        (2, 3, [None, 0, 5, 5]),
        (2, 7, [float("nan"), 0, 5, 5]),
        (2, 7, [30, 20, 100, 100]),  # reaches beyond the image, as some do: kept as it is
    ]
    path = write_coco(images.parent / "i.json", SIZES, rows)
    found = read_coco(images, path)
    assert found.objects[0].boxes.tolist() == [[5, 5, 10, 10]]
    assert found.objects[1].boxes.tolist() == [[30, 20, 130, 120]]
    assert found.objects[1].labels.tolist() == [2]
    assert set(found.notes) == {
        f"boxes of no area, left out: 1 (the first: annotation 1 of {path})",
        f"boxes outside of the image, left out: 2 (the first: annotation 3 of {path})",
        "boxes with a coordinate that is not a number, left out: 2 "
        f"(the first: annotation 5 of {path})",
    }


def test_a_file_without_sizes_takes_those_of_the_images(
    images: Path, write_coco: WriteCoco
) -> None:
    path = write_coco(images.parent / "i.json", SIZES, [(1, 3, [0, 0, 5, 5])])
    content = json.loads(path.read_text())
    for entry in content["images"]:
        del entry["width"]
    path.write_text(json.dumps(content))
    assert read_coco(images, path).objects[0].size == (30, 40)


def test_what_is_written_in_cocos_form_is_read_back(images: Path, write_coco: WriteCoco) -> None:
    rows = [(1, 7, [1.5, 2, 10, 20]), (2, 3, [0, 0, 40, 30]), (2, 7, [3, 4, 5, 6])]
    found = read_coco(images, write_coco(images.parent / "i.json", SIZES, rows))
    content = coco_form(found.objects, found.classes, list(SIZES), found.category_ids)
    assert [a["bbox"] for a in content["annotations"]] == [row[2] for row in rows]
    assert [a["category_id"] for a in content["annotations"]] == [7, 3, 7]
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    path = images.parent / "again.json"
    path.write_text(json.dumps(content))
    again = read_coco(images, path)
    for one, other in zip(found.objects, again.objects, strict=True):
        assert (one.boxes == other.boxes).all()
        assert (one.labels == other.labels).all()


def test_a_file_that_is_cut_off(images: Path, write_coco: WriteCoco, refuses: Refuses) -> None:
    path = write_coco(images.parent / "i.json", SIZES, [(1, 3, [0, 0, 5, 5])])
    path.write_text(path.read_text()[:-20])
    with refuses(f"{path} is cut off or not JSON", "line 1, column"):
        read_coco(images, path)
    path.write_bytes(b"\x80\x81\xff")
    with refuses(f"{path} is cut off or not JSON"):
        read_coco(images, path)
    with refuses("cannot be read (No such file"):
        read_coco(images, images / "none.json")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_part_that_is_missing(
    images: Path, write_coco: WriteCoco, refuses: Refuses, key: str
) -> None:
    path = write_coco(images.parent / "i.json", SIZES, [])
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with refuses(f"{path} has no list of {key}"):
        read_coco(images, path)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ((9, 3, [0, 0, 5, 5]), "annotation 1 of {} is on image 9, which the file does not list"),
        ((1, 5, [0, 0, 5, 5]), "annotation 1 of {} has category_id 5, which is not one of its"),
        ((1, 3, [0, 0, 5]), "annotation 1 of {} has the bbox [0, 0, 5]"),
        ({"id": 4, "image_id": 1, "category_id": 3}, "annotation 4 of {} has None as bbox"),
        ({"id": 4, "image_id": "1", "category_id": 3}, "annotation 4 of {} has '1' as image_id"),
    ],
)
def test_annotations_that_say_nothing(
    images: Path, write_coco: WriteCoco, refuses: Refuses, row: object, told: str
) -> None:
    path = write_coco(images.parent / "i.json", SIZES, [row])
    with refuses(told.format(path)):
        read_coco(images, path)


def test_images_and_categories_that_are_wrong(
    images: Path, write_coco: WriteCoco, refuses: Refuses
) -> None:
    path = images.parent / "i.json"
    with refuses(f"{path} lists no images"):
        read_coco(images, write_coco(path, {}, []))
    with refuses(f"{path} has no categories"):
        read_coco(images, write_coco(path, SIZES, [], []))
    with refuses(f"{path} has category 1 twice"):
        read_coco(images, write_coco(path, SIZES, [], [(1, "a"), (1, "b")]))
    content = json.loads(write_coco(path, SIZES, []).read_text())
    content["images"][1]["id"] = 1
    path.write_text(json.dumps(content))
    with refuses(f"{path} has image 1 twice"):
        read_coco(images, path)


def test_without_sizes_a_broken_image_is_found(
    images: Path, write_coco: WriteCoco, refuses: Refuses
) -> None:
    path = write_coco(images.parent / "i.json", {**SIZES, "b.png": (0, 0)}, [])
    (images / "b.png").write_text("no picture")
    with refuses(f"image {images / 'b.png'} is not an image"):
        read_coco(images, path)
