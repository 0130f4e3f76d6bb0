from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import MobileNet_V2_Weights

from subbyte.data.classes import class_order, imagenet_classes, read_classes
from subbyte.models.cifar_resnet import CLASSES as CIFAR

if TYPE_CHECKING:
    from .conftest import Refuses

FOLDER = os.environ.get("SUBBYTE_DATA")
CATEGORIES = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
# Of ImageNet's classes: WordNet id, name and number, from the data set's own published list.
KNOWN = {
    "n01440764": ("tench", 0),
    "n01443537": ("goldfish", 1),
    "n02123045": ("tabby", 281),
    "n02963159": ("cardigan", 474),
    "n02113186": ("Cardigan", 264),
    "n03134739": ("croquet ball", 522),
    "n15075141": ("toilet tissue", 999),
}


def numbers(folders: list[str], outputs: int, **more: object) -> list[int]:
    order = class_order(folders, outputs, **more)  # type: ignore[arg-type]
    return [order.numbers[folder] for folder in folders]


def test_imagenets_ids_are_in_the_order_of_torchvisions_names() -> None:
    ids = imagenet_classes()
    assert len(set(ids)) == len(CATEGORIES) == 1000
    assert list(ids) == sorted(ids)
    for name, (category, number) in KNOWN.items():
        assert ids[number] == name
        assert CATEGORIES[number] == category


@pytest.mark.skipif(not FOLDER, reason="SUBBYTE_DATA, a folder of real data, is not set")
def test_imagenets_ids_are_those_of_its_folders() -> None:
    folders = sorted(p.name for p in (Path(str(FOLDER)) / "imagenet/val").iterdir() if p.is_dir())
    assert folders == list(imagenet_classes())


def test_imagenets_ids_are_those_of_timm() -> None:
    timm = pytest.importorskip("timm")
    info = timm.data.ImageNetInfo()
    assert list(imagenet_classes()) == info.label_names()


def test_some_of_imagenets_folders_keep_their_numbers() -> None:
    folders = sorted(KNOWN)
    expected = [KNOWN[folder][1] for folder in folders]
    assert numbers(folders, 1000) == expected
    assert numbers(folders, 1000, known=CATEGORIES) == expected
    assert numbers(folders, 1000, given=Path("imagenet")) == expected
    order = class_order(folders, 1000)
    assert order.names == imagenet_classes()
    assert order.note is None


def test_all_of_imagenets_folders_are_in_alphabetical_order() -> None:
    assert numbers(list(imagenet_classes()), 1000) == list(range(1000))


def test_wordnet_folders_of_a_model_with_other_outputs_are_its_own() -> None:
    folders = sorted(KNOWN)
    assert numbers(folders, 7) == list(range(7))


def test_wordnet_folders_of_other_classes(refuses: Refuses) -> None:
    with refuses("'n99999999' is not one of ImageNet's classes"):
        class_order(["n01440764", "n99999999"], 1000)
    with refuses("class folder 'n99999999' is not in data.classes imagenet"):
        class_order(["n01440764", "n99999999"], 1000, given=Path("imagenet"))
    with refuses("data.classes imagenet has 1000 lines, but the model has 10 outputs"):
        class_order(["n01440764"], 10, given=Path("imagenet"))
    nearly = [*imagenet_classes()[:999], "n99999999"]
    for known in (None, CATEGORIES):
        with refuses("class folder 'n99999999' is not one of ImageNet's 1000 classes"):
            class_order(nearly, 1000, known=known)
    own = [f"n{i:08}" for i in range(1000)]  # a model of one's own on 1,000 other synsets
    assert numbers(own, 1000) == list(range(1000))


def test_a_file_that_is_called_imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("imagenet").write_text("dog\ncat\n")
    assert numbers(["cat", "dog"], 2, given=Path("imagenet")) == [1, 0]


@given(st.sets(st.sampled_from(CIFAR), min_size=1))
def test_folders_named_as_the_models_classes_have_their_numbers(names: set[str]) -> None:
    folders = sorted(names)
    assert numbers(folders, 10, known=CIFAR) == [CIFAR.index(name) for name in folders]


def test_names_decide_where_the_alphabet_would_not(refuses: Refuses) -> None:
    known = ["tench", "great white shark", "Cardigan", "cardigan", "crane"]
    assert numbers(["cardigan", "crane", "tench"], 5, known=known) == [3, 4, 0]
    assert numbers(["Great_White_Shark", "tench"], 5, known=known) == [1, 0]
    assert class_order(["tench"], 5, known=known).names == tuple(known)
    with refuses("class folder 'CARDIGAN' is not one of the model's 5 classes (tench, "):
        class_order(["CARDIGAN", "tench"], 5, known=known)  # which of the two?
    with refuses("class folder 'crane' is not one"):
        class_order(["crane", "tench"], 3, known=["crane", "crane", "tench"])


def test_a_folder_that_is_none_of_the_models_classes(refuses: Refuses) -> None:
    stl10 = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    with refuses("class folder 'car' is not one of the model's 10 classes (airplane, auto"):
        class_order(stl10, 10, known=CIFAR)
    with refuses("class folder 'car' is not one"):
        class_order(["car", "cat"], 10, known=CIFAR)


def test_a_folder_for_each_output_is_in_alphabetical_order() -> None:
    order = class_order(["a", "b", "c"], 3)
    assert (order.names, dict(order.numbers)) == (("a", "b", "c"), {"a": 0, "b": 1, "c": 2})
    assert order.note is None
    noted = class_order(["a", "b", "c"], 3, known=["x", "y", "z"])
    assert dict(noted.numbers) == {"a": 0, "b": 1, "c": 2}
    assert "alphabetical order" in str(noted.note)


def test_what_cannot_be_told_is_refused(refuses: Refuses) -> None:
    seven = [f"class{i}" for i in range(7)]
    told = "there are 7 class folders (class0, class1, class2, …), but the model has 10 outputs"
    for known in (None, CIFAR):
        with refuses(told):
            class_order(seven, 10, known=known)
    with refuses("in a file and give it as data.classes (on the command line: --classes)"):
        class_order(seven, 10)
    with refuses("have 7 classes, but the model has only 6"):
        class_order(seven, 6)


def test_a_file_gives_the_order(tmp_path: Path, refuses: Refuses) -> None:
    file = tmp_path / "classes.txt"
    file.write_text("\ufeffdog\nbird\r\n  cat \n\n", encoding="utf-8")
    order = class_order(["cat", "dog"], 3, given=file, known=["cat", "dog", "bird"])
    assert order.names == ("dog", "bird", "cat")
    assert (order.numbers["dog"], order.numbers["cat"]) == (0, 2)
    with refuses("class folder 'mouse' is not in data.classes"):
        class_order(["cat", "mouse"], 3, given=file)
    with refuses("has 3 lines, but the model has 10 outputs: give a line for each output"):
        class_order(["cat", "dog"], 10, given=file)


def test_folders_without_images(tmp_path: Path, refuses: Refuses) -> None:
    with refuses("class folder 'bird' holds no images: remove it if it is not a class"):
        class_order(["bird", "cat"], 2, empty={"bird"})
    (tmp_path / "classes.txt").write_text("cat\nbird\n")
    order = class_order(["bird", "cat"], 2, empty={"bird"}, given=tmp_path / "classes.txt")
    assert order.numbers["cat"] == 0
    ids = list(imagenet_classes())
    assert class_order([*ids, "notes"], 1000, empty={"notes", *ids[5:]}).numbers[ids[4]] == 4
    assert class_order([*CIFAR, "notes"], 10, known=CIFAR, empty={"notes"}).numbers["cat"] == 3


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
