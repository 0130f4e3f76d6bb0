from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from detection_readers import read_yolo

from subbyte.data.detection.yolo import images_of, labels_of, read_names, read_yaml

if TYPE_CHECKING:
    from .conftest import Draw, Refuses


def test_boxes_are_in_widths_and_heights(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "images/val/a.png", size=(40, 20))
    draw(tmp_path / "images/val/b.png", size=(10, 10))
    (tmp_path / "labels/val").mkdir(parents=True)
    (tmp_path / "labels/val/a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0 0 0.5 0 0.5 1 0 0.5\n")
    found = read_yolo(tmp_path / "images/val", classes=["cat", "dog"])
    first, second = found.objects
    # 40 wide and 20 high: centre (20, 10), 10 wide and 10 high; then the box of an outline.
    np.testing.assert_allclose(first.boxes, [[15, 5, 25, 15], [0, 0, 20, 20]])
    assert first.labels.tolist() == [2, 1]
    assert first.area.tolist() == [100, 400]
    assert first.size == (20, 40)
    assert len(second) == 0  # without a text file
    assert found.category_ids == {1: 0, 2: 1}


def test_labels_in_another_folder(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "pictures/x/a.png")
    (tmp_path / "texts/x").mkdir(parents=True)
    (tmp_path / "texts/x/a.txt").write_text("0 0.5 0.5 1 1")
    found = read_yolo(tmp_path / "pictures", tmp_path / "texts", classes=["cat"])
    assert found.objects[0].boxes.tolist() == [[0, 0, 40, 30]]


def test_where_labels_are_looked_for() -> None:
    assert labels_of(Path("a/images/images/b.c.png")) == Path("a/images/labels/b.c.txt")
    assert labels_of(Path("a/train/images/b.jpg")) == Path("a/train/labels/b.txt")
    assert labels_of(Path("a/b.jpg")) == Path("a/b.txt")


def test_boxes_that_are_none(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "a.png")
    text = tmp_path / "a.txt"
    text.write_text("0 0.5 0.5 0 0.2\n0 2 0.5 0.5 0.5\n0 nan 0.5 0.5 0.5\n0 .5 .5 .5 .5\n")
    found = read_yolo(tmp_path, classes=["cat"])
    assert found.objects[0].boxes.tolist() == [[10, 7.5, 30, 22.5]]
    assert set(found.notes) == {
        f"boxes of no area, left out: 1 (the first: object 1 of {text})",
        f"boxes outside of the image, left out: 1 (the first: object 2 of {text})",
        "boxes with a coordinate that is not a number, left out: 1 "
        f"(the first: object 3 of {text})",
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2 0.5 0.5 0.1 0.1", "has class 2, and there are 2 names: give 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "has class -1"),
        ("0.5 0.5 0.5 0.1 0.1", "has class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", "has class nan"),
        ("0 0.5 0.5 0.1", "has 3 numbers behind its class"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 5 numbers behind its class"),
        ("cat 0.5 0.5 0.1 0.1", "is 'cat 0.5 0.5 0.1 0.1': give numbers alone"),
    ],
)
def test_lines_that_are_none(
    tmp_path: Path, draw: Draw, refuses: Refuses, line: str, told: str
) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(line)
    with refuses(f"object 1 of {tmp_path / 'a.txt'}", told):
        read_yolo(tmp_path, classes=["cat", "dog"])


def test_no_images_and_no_text(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    with refuses("there are no images"):
        read_yolo(tmp_path, classes=["cat"])
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe0 1")
    with refuses(f"{tmp_path / 'a.txt'} is not text in UTF-8"):
        read_yolo(tmp_path, classes=["cat"])


def test_names(tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "data.yaml"
    path.write_text("names: [cat, dog]")
    assert read_names(path) == ("cat", "dog")
    path.write_text("names: {1: dog, 0: cat}")
    assert read_names(path) == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    assert read_names(tmp_path / "classes.txt") == ("cat", "dog")
    path.write_text("names: {1: dog, 2: cat}")
    with refuses(f"names in {path} are numbered 1, 2"):
        read_names(path)
    path.write_text("names: {a: dog, b: cat}")
    with refuses(f"names in {path} are numbered a, b"):
        read_names(path)
    path.write_text("nc: 2")
    with refuses(f"{path} names no classes"):
        read_names(path)
    path.write_text("names: [cat, dog")
    with refuses(f"{path} is cut off or not YAML"):
        read_names(path)
    path.write_text("cat")
    with refuses(f"{path} holds no mapping"):
        read_yaml(path)


def test_images_that_a_data_yaml_names(tmp_path: Path, draw: Draw, refuses: Refuses) -> None:
    a = draw(tmp_path / "set/train/images/a.png")
    b = draw(tmp_path / "set/more/images/b.png")
    (tmp_path / "set/list.txt").write_text("./more/images/b.png\n")
    path = tmp_path / "data.yaml"
    content = {"path": "set", "train": ["train/images", "list.txt"], "val": "../train/images"}
    assert images_of(content, "train", path) == [a, b]
    assert images_of(content, "val", path) == [a]
    with refuses(f"{path} has no test"):
        images_of(content, "test", path)
    with refuses(f"{path} has nowhere as train, which does not exist"):
        images_of({"train": "nowhere"}, "train", path)
