"""The sentence about a raw network's outputs, and the one about its images."""

from __future__ import annotations

from typing import Any

import pytest

import subbyte
from subbyte.data.preprocessing import Preprocessing as OfData
from subbyte.detection import ANCHORS, Outputs, Preprocessing, preprocessing_of
from subbyte.errors import SubbyteError


def test_the_module_is_part_of_the_package() -> None:
    assert subbyte.detection.Outputs is Outputs
    assert subbyte.detection.Preprocessing is Preprocessing


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"form": "decoded"}, ("cxcywh", False, False, "none", "none", 4)),
        ({"form": "levels"}, ("distances", False, False, "sigmoid", "none", 64)),
        ({"form": "levels", "box": "yolox"}, ("yolox", False, True, "sigmoid", "none", 4)),
        ({"form": "levels", "bins": 1}, ("distances", False, False, "sigmoid", "none", 4)),
        ({"form": "queries"}, ("cxcywh", True, False, "sigmoid", "none", 4)),
        (
            {"form": "queries", "activation": "softmax"},
            ("cxcywh", True, False, "softmax", "last", 4),
        ),
    ],
)
def test_each_form_has_the_defaults_that_most_networks_need(
    keys: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = Outputs(**keys)
    assert (
        found.how,
        found.is_relative,
        found.has_objectness,
        found.scores_by,
        found.without,
        found.width,
    ) == expected


def test_thresholds_are_those_of_coco_evaluations() -> None:
    found = Outputs(form="decoded")
    assert (found.score, found.overlap, found.limit) == (0.001, 0.65, 300)
    assert Outputs(form="queries", top=100).limit == 100
    assert Outputs(form="queries").overlap is None
    assert Outputs(form="decoded", nms=None).overlap is None


def test_anchors_are_pairs_or_plain_numbers() -> None:
    pairs = Outputs(form="levels", box="anchors", strides=[8], anchors=[[[10, 13], [16, 30]]])
    plain = Outputs(form="levels", box="anchors", strides=[8], anchors=[[10, 13, 16, 30]])
    assert pairs.anchors == plain.anchors == ((10.0, 13.0, 16.0, 30.0),)
    assert Outputs(form="levels", box="anchors").anchors_of_levels == ANCHORS


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"form": "decode"}, "give decoded, levels, queries, detections or FILE.py:FUNCTION"),
        ({"form": "decoded", "strides": [8]}, "strides has no meaning with form: decoded"),
        ({"form": "detections"}, "give classes, how many there are"),
        ({"form": "detections", "classes": 3, "activation": "none"}, "activation has no meaning"),
        ({"form": "queries", "nms": 0.5}, "nms has no meaning with form: queries"),
        ({"form": "my.py:boxes", "box": "xyxy"}, "box has no meaning with form: FILE.py:FUNCTION"),
        ({"form": "levels", "box": "xyxy"}, "give one of distances, yolox, anchors"),
        ({"form": "decoded", "box": "yolox"}, "give one of cxcywh, xyxy, xywh"),
        ({"form": "levels", "box": "yolox", "bins": 8}, "bins are those of distances"),
        ({"form": "levels", "box": "yolox", "point": "corner"}, "point is that of distances"),
        ({"form": "levels", "anchors": [[1, 2]] * 3}, "anchors need box: anchors"),
        ({"form": "levels", "strides": [8, 8]}, "give strides that differ"),
        ({"form": "levels", "strides": []}, "strides are empty"),
        (
            {"form": "levels", "box": "anchors", "strides": [8, 16]},
            "anchors are given for 3 levels, and there are 2 strides",
        ),
        (
            {"form": "levels", "box": "anchors", "strides": [8], "anchors": [[1, 2, 3]]},
            "pairs of width and height",
        ),
        (
            {"form": "levels", "box": "anchors", "strides": [8, 16], "anchors": [[1, 2], [3] * 4]},
            "as many anchors as the others",
        ),
        ({"form": "decoded", "score": 1.5}, "score is 1.5"),
        ({"form": "decoded", "boxes": "xyxy"}, "did you mean 'box'?"),
        ({}, "form is missing"),
    ],
)
def test_a_sentence_that_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SubbyteError) as refused:
        Outputs(**keys)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crop": 224}, "crop is for classifiers"),
        ({"resize": 640}, "give letterbox: 640, which keeps the ratio of the sides"),
        ({"resize": (640, 640), "letterbox": 640}, "exclude each other"),
        ({"place": "corner"}, "give letterbox: SIDE as well"),
        ({"letterbox": 0}, "sides of 1 pixel and more"),
        ({"letterbox": 64, "fill": 300}, "give 0 to 255"),
        ({"range": 127}, "range is 127"),
        ({"mean": (0.5,), "std": (0.5,)}, "give three values"),
        ({"interpolation": "bicubic"}, "interpolation: bicubic is for classifiers"),
        ({"colors": "bgr"}, "did you mean 'colours'?"),
    ],
)
def test_a_preprocessing_that_cannot_be_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SubbyteError) as refused:
        Preprocessing(**keys)
    assert message in str(refused.value)


def test_a_networks_images_are_neither_normalized_nor_resized_by_default() -> None:
    assert Preprocessing().mean == (0, 0, 0)
    assert Preprocessing().std == (1, 1, 1)
    assert preprocessing_of(None) == Preprocessing()
    assert preprocessing_of(OfData(letterbox=416)) == Preprocessing(letterbox=416)
    assert preprocessing_of(OfData(mean=(1, 2, 3), std=(4, 5, 6), range=255)).mean == (1, 2, 3)
