from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from subbyte.data import (
    DataConfig,
    DetectionData,
    open_data,
    open_detection,
    open_detection_evaluation,
)
from subbyte.data.detection.layout import format_of
from subbyte.data.detection.scenes import COUNTS
from subbyte.errors import SubbyteError

if TYPE_CHECKING:
    from .conftest import Draw, Refuses, WriteCoco, WriteVoc


def opened(**keys: Any) -> DetectionData:
    return open_detection(DataConfig(**keys), seed=0, batch_size=2)


@pytest.fixture
def coco(tmp_path: Path, draw: Draw, write_coco: WriteCoco) -> Path:
    """COCO's own layout: 3 training and 4 validation images, one object each."""
    root = tmp_path / "coco"
    for split, count in (("train2017", 3), ("val2017", 4)):
        sizes = {f"{i:012}.jpg": (40, 30) for i in range(count)}
        for i, name in enumerate(sizes):
            draw(root / split / name, seed=len(split) * 10 + i)
        rows = [(i + 1, (3, 7)[i % 2], [i, i, 10, 10]) for i in range(count)]
        write_coco(root / "annotations" / f"instances_{split}.json", sizes, rows)
    return root


@pytest.fixture
def voc(tmp_path: Path, write_voc: WriteVoc) -> Path:
    for split, names in (("train", "abc"), ("val", "de"), ("test", "f")):
        write_voc(tmp_path / "voc", split, {name: [("x", (1, 1, 9, 9))] for name in names})
    return tmp_path / "voc"


@pytest.fixture
def yolo(tmp_path: Path, draw: Draw) -> Path:
    root = tmp_path / "yolo"
    for split, count in (("train", 3), ("val", 2)):
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            draw(root / "images" / split / f"{i}.png", seed=len(split) + i)
            (root / "labels" / split / f"{i}.txt").write_text("1 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


def test_cocos_layout(coco: Path) -> None:
    data = opened(root=coco)
    assert (data.calibration.images, data.evaluation.images) == (3, 4)
    assert data.classes == ("cat", "dog")
    assert data.category_ids == {1: 3, 2: 7}
    assert data.overlap == 0
    assert data.notes == data.skipped == ()
    batch = next(iter(data.evaluation))
    assert [target["labels"].tolist() for target in batch["targets"]] == [[1], [2]]
    assert "targets" in next(iter(data.calibration))
    few = opened(root=coco, calibration_images=2, evaluation_images=3)
    assert (few.calibration.images, few.evaluation.images) == (2, 3)
    assert len(few.evaluation.objects) == 3


def test_every_format_is_known_by_its_files(coco: Path, voc: Path, yolo: Path) -> None:
    for root, name in ((coco, "coco"), (voc, "voc"), (yolo, "yolo")):
        assert format_of(DataConfig(root=root)) == name
    assert opened(root=voc).classes == ("x",)
    assert opened(root=yolo).classes == ("cat", "dog")
    assert opened(root=yolo).evaluation.objects[0].boxes.tolist() == [[10, 7.5, 30, 22.5]]


def test_a_layout_that_says_nothing_or_too_much(
    tmp_path: Path, coco: Path, yolo: Path, refuses: Refuses
) -> None:
    (tmp_path / "empty").mkdir()
    with refuses(f"{tmp_path / 'empty'} holds no annotations that are known", "data.format"):
        opened(root=tmp_path / "empty")
    shutil.copytree(yolo / "labels", coco / "labels")
    with refuses(f"{coco} may be coco or yolo: give data.format"):
        opened(root=coco)
    assert opened(root=coco, format="coco").evaluation.images == 4
    with refuses("data.root nowhere does not exist"):
        opened(root="nowhere")


def test_other_splits(coco: Path, voc: Path, refuses: Refuses) -> None:
    data = opened(root=voc, splits={"evaluation": "test"})
    assert (data.calibration.images, data.evaluation.images) == (3, 1)
    only = opened(root=coco, splits={"calibration": "val2017"})
    assert (only.calibration.images, only.evaluation.images, only.overlap) == (4, 4, 4)
    with refuses("unknown split of", "'dev'"):
        opened(root=voc, splits={"evaluation": "dev"})
    with refuses("has no annotations/instances_test.json", "annotations/instances_train2017.json"):
        opened(root=coco, splits={"evaluation": "test"})
    shutil.copy(
        coco / "annotations/instances_val2017.json", coco / "annotations/instances_val2014.json"
    )
    with refuses("instances_val2014.json", "for the split val: name one in data.splits"):
        opened(root=coco)


def test_calibration_images_need_no_annotations(coco: Path, refuses: Refuses) -> None:
    (coco / "annotations/instances_train2017.json").unlink()
    data = opened(root=coco)
    assert (data.calibration.images, data.calibration.labelled) == (3, False)
    assert data.evaluation.labelled
    shutil.rmtree(coco / "train2017")
    with refuses("has no annotations/instances_train.json", "instances_val2017.json"):
        opened(root=coco)


def test_files_by_their_paths(tmp_path: Path, coco: Path) -> None:
    files = {s: coco / f"annotations/instances_{s}2017.json" for s in ("train", "val")}
    both = opened(
        calibration=coco / "train2017",
        evaluation=coco / "val2017",
        annotations={"calibration": files["train"], "evaluation": files["val"]},
    )
    assert (both.calibration.images, both.calibration.labelled) == (3, True)
    one = opened(
        calibration=coco / "train2017", evaluation=coco / "val2017", annotations=files["val"]
    )
    assert (one.calibration.images, one.calibration.labelled) == (3, False)
    assert "targets" not in next(iter(one.calibration))
    assert one.classes == ("cat", "dog")
    shutil.copy(files["val"], coco / "val2017" / "instances.json")
    beside = opened(format="coco", calibration=coco / "train2017", evaluation=coco / "val2017")
    assert beside.evaluation.images == 4
    same = opened(root=coco / "val2017", annotations=files["val"])
    assert (same.calibration.images, same.evaluation.images, same.overlap) == (4, 4, 4)


def test_layouts_of_other_tools(coco: Path, yolo: Path) -> None:
    for split in ("train2017", "val2017"):  # Ultralytics'
        (coco / "images").mkdir(exist_ok=True)
        (coco / split).rename(coco / "images" / split)
    assert opened(root=coco).evaluation.images == 4
    for split, name in (("train2017", "train"), ("val2017", "valid")):  # Roboflow's
        (coco / "images" / split).rename(coco / name)
        file = coco / f"annotations/instances_{split}.json"
        file.rename(coco / name / "_annotations.coco.json")
    (coco / "annotations").rmdir()
    assert opened(root=coco).evaluation.images == 4
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("cat\ndog\n")
    assert opened(root=yolo).classes == ("cat", "dog")
    (yolo / "swapped").mkdir()
    for split in ("train", "valid"):
        for kind in ("images", "labels"):
            source = yolo / kind / split.removesuffix("id")
            source.rename(yolo / "swapped" / f"{split}-{kind}")
            (yolo / "swapped" / split).mkdir(exist_ok=True)
            (yolo / "swapped" / f"{split}-{kind}").rename(yolo / "swapped" / split / kind)
    data = opened(root=yolo / "swapped", classes=yolo / "classes.txt")
    assert (data.calibration.images, data.evaluation.images) == (3, 2)


def test_yaml_files_for_something_else_say_nothing(
    coco: Path, yolo: Path, refuses: Refuses
) -> None:
    (coco / "odd.yaml").write_text("[1, 2")
    assert format_of(DataConfig(root=coco)) == "coco"
    (yolo / "odd.yaml").write_text("names: [x]")
    assert opened(root=yolo).classes == ("cat", "dog")
    (yolo / "data.yaml").write_text("names: [x")
    with refuses(f"{yolo / 'data.yaml'} is cut off or not YAML"):
        opened(root=yolo)


def test_yolos_data_yaml_elsewhere_and_no_names(yolo: Path, refuses: Refuses) -> None:
    moved = yolo.parent / "set.yaml"
    moved.write_text("path: yolo\ntrain: images/train\nval: images/val\nnames: {0: a, 1: b}\n")
    (yolo / "data.yaml").unlink()
    assert opened(root=yolo, annotations=moved).classes == ("a", "b")
    folders = {"calibration": yolo / "images/train", "evaluation": yolo / "images/val"}
    assert opened(**folders, annotations=moved).evaluation.images == 2
    with refuses(f"nothing names the classes of {yolo}"):
        opened(root=yolo)


def test_listed_classes_are_the_models_labels(coco: Path, tmp_path: Path, refuses: Refuses) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("bird\ndog\ncat\n")
    data = opened(root=coco, classes=file)
    assert data.classes == ("bird", "dog", "cat")
    assert data.category_ids == {3: 3, 2: 7}
    assert [o.labels.tolist() for o in data.evaluation.objects] == [[3], [2], [3], [2]]
    assert data.labelled(4, ["bird", "dog", "cat"]).classes == ("bird", "dog", "cat")
    file.write_text("bird\ndog\n")
    with refuses(f"data.classes {file} does not list cat, which the data has"):
        opened(root=coco, classes=file)


def test_labels_of_a_model(coco: Path, refuses: Refuses) -> None:
    data = opened(root=coco)
    by_name = data.labelled(4, ["__background__", "dog", "horse", "cat"])
    assert [o.labels.tolist() for o in by_name.evaluation.objects] == [[3], [1], [3], [1]]
    assert by_name.category_ids == {3: 3, 1: 7}
    assert by_name.evaluation.dataset.classes == ("dog", "horse", "cat")
    assert by_name.notes == ("the data has 2 of the model's 3 classes",)
    by_id = data.labelled(8, None)
    assert next(iter(by_id.evaluation))["targets"][1]["labels"].tolist() == [7]
    assert data.labelled(3, None).evaluation.objects[0].labels.tolist() == [1]
    with refuses("the data has 2 classes and the model 9 besides the background"):
        data.labelled(10, None)


def test_broken_images_and_sizes_that_do_not_fit(coco: Path, refuses: Refuses) -> None:
    first, second = coco / "val2017/000000000000.jpg", coco / "val2017/000000000001.jpg"
    first.write_bytes(first.read_bytes()[:300])
    Image.new("RGB", (20, 30)).save(second)
    with refuses(f"image {first} is cut off", "and 1 more of 7 images are broken", "skip_broken"):
        opened(root=coco)
    data = opened(root=coco, skip_broken=True)
    assert data.skipped == (str(first), str(second))
    assert data.evaluation.images == 2
    assert [found.image_id for found in data.evaluation.objects] == [3, 4]
    shutil.copy(coco / "val2017/000000000002.jpg", first)
    with refuses(f"image {second} is 20 pixels wide and 30 high and", "has it as 40 wide and 30"):
        opened(root=coco)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(second, exif=exif)
    with refuses("is 30 pixels wide and 40 high, turned as its EXIF orientation says, and"):
        opened(root=coco)
    second.unlink()
    file = coco / "annotations/instances_val2017.json"
    with refuses(f"image {second} does not exist, though {file} lists it"):
        opened(root=coco)
    shutil.rmtree(coco / "val2017")
    with refuses("every image of", "is broken or missing"):
        opened(root=coco, skip_broken=True)


def test_what_cannot_be_evaluated_alone_is_said_without_keys_of_an_experiment(
    coco: Path, refuses: Refuses
) -> None:
    def evaluated(source: Path | str, classes: Path | None = None) -> None:
        with pytest.raises(SubbyteError, match=r"^((?!data\.).)*$"):
            open_detection_evaluation(str(source), classes=classes, batch_size=2)
        open_detection_evaluation(str(source), classes=classes, batch_size=2)

    with refuses("gone does not exist"):
        evaluated(coco / "gone")
    with refuses("val2017 holds no annotations that are known"):
        evaluated(coco / "val2017")
    with refuses("instances_val2017.json is a file"):
        evaluated(coco / "annotations/instances_val2017.json")
    with refuses("has no meaning for digit-scenes"):
        evaluated("digit-scenes", coco / "classes.txt")


def test_odd_boxes_and_images_are_in_the_notes(coco: Path) -> None:
    file = coco / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [3, 3, 0, 4]
    content["images"][0].update(width=30, height=40)
    file.write_text(json.dumps(content))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(coco / "val2017/000000000000.jpg", exif=exif)
    data = opened(root=coco)
    assert data.notes == (
        f"boxes of no area, left out: 1 (the first: annotation 1 of {file})",
        "turned upright as their EXIF orientation says: 1 of the 4 evaluation images",
    )
    assert len(data.evaluation.objects[0]) == 0
    assert data.evaluation.notes == data.notes


def test_both_sides_have_the_same_classes(
    coco: Path, write_coco: WriteCoco, refuses: Refuses
) -> None:
    file = coco / "annotations/instances_train2017.json"
    write_coco(file, {"000000000000.jpg": (40, 30)}, [], [(1, "horse")])
    with refuses("calibration has the classes horse and evaluation cat, dog"):
        opened(root=coco)


def test_digit_scenes() -> None:
    data = opened(name="digit-scenes", calibration_images=5, evaluation_images=3)
    assert (data.calibration.images, data.evaluation.images) == (5, 3)
    assert data.classes == tuple("0123456789")
    assert data.category_ids == {label: label - 1 for label in range(1, 11)}
    again = opened(name="digit-scenes", calibration_images=5, evaluation_images=3)
    for one, other in zip(data.evaluation.objects, again.evaluation.objects, strict=True):
        assert (one.boxes == other.boxes).all()
    assert all(found.image_id <= COUNTS["evaluation"] for found in data.evaluation.objects)


def test_a_classifier_does_not_take_objects(voc: Path, refuses: Refuses) -> None:
    for keys in ({"name": "digit-scenes"}, {"root": voc, "format": "voc"}):
        with refuses("a classifier needs images in class folders"):
            open_data(DataConfig(**keys), None, seed=0, batch_size=2)
