from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from torchvision.models.detection import SSD300_VGG16_Weights

from subbyte.data.detection.labels import label_map, without_background

if TYPE_CHECKING:
    from .conftest import Refuses

# COCO's categories as its instances_val2017.json numbers them: 80, with gaps up to 90.
META = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
IDS = [i for i, name in enumerate(META) if name not in ("__background__", "N/A")]
COCO = [META[i] for i in IDS]
CATEGORY_IDS = dict(enumerate(IDS, 1))


def test_by_the_models_names() -> None:
    found = label_map(COCO, CATEGORY_IDS, 91, META)
    assert found.labels == CATEGORY_IDS  # torchvision's labels are the ids
    assert found.classes == tuple(META[1:])
    assert found.note == "the data has 80 of the model's 90 classes"
    assert label_map(["dog", "cat"], {1: 1, 2: 2}, 3, ["cat", "dog"]).labels == {1: 2, 2: 1}
    assert label_map(["dog"], {1: 1}, None, ["background", "cat", "dog"]).labels == {1: 2}


def test_in_order_where_there_are_as_many() -> None:
    found = label_map(COCO, CATEGORY_IDS, 81)
    assert found.labels == {label: label for label in range(1, 81)}
    assert found.classes == tuple(COCO)
    assert found.note is None
    other = label_map(["x", "y"], {1: 0, 2: 1}, 3, ["__background__", "cat", "dog"])
    assert other.labels == {1: 1, 2: 2}
    assert other.note is not None
    assert "the model does not know the name x" in other.note
    assert label_map(["x", "y"], {1: 0, 2: 1}, None).labels == {1: 1, 2: 2}


def test_by_the_sets_own_numbers() -> None:
    found = label_map(COCO, CATEGORY_IDS, 91)
    assert found.labels == CATEGORY_IDS
    assert found.classes[16] == "cat"
    assert found.classes[11] == "category 12"


def test_as_listed() -> None:
    assert label_map(["b", "a"], {}, 5, ["a", "b"], listed=True).labels == {1: 1, 2: 2}


def test_what_does_not_fit_is_named(refuses: Refuses) -> None:
    with refuses(
        "the data has 80 classes and the model 20 besides the background",
        "cow (id 21), elephant (id 22), bear (id 23) and 58 more fit none",
        "give data.classes",
    ):
        label_map(COCO, CATEGORY_IDS, 21)
    with refuses("horse (id 17), zebra (id 18) fit none"):
        label_map(["cat", "horse", "zebra"], {1: 5, 2: 17, 3: 18}, 11, ["cat", "dog", *"abcdefgh"])
    with refuses("the data has 3 classes and the model 2 besides the background"):
        label_map(["a", "b", "c"], {}, 3, listed=True)


@pytest.mark.parametrize(
    ("names", "outputs", "expected"),
    [
        (["__background__", "a"], None, ("a",)),
        (["Background", "a"], 2, ("a",)),
        (["none", "a"], 2, ("a",)),
        (["a", "b"], 3, ("a", "b")),
        (["a", "b"], None, ("a", "b")),
        ([], 3, ()),
    ],
)
def test_the_background_has_no_name(
    names: list[str], outputs: int | None, expected: tuple[str, ...]
) -> None:
    assert without_background(names, outputs) == expected
