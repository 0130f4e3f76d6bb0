"""Noise in raw outputs, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import subbyte
from small_detectors import NAMES, detector, pictures
from subbyte.tasks.metrics.raw_noise import raw_noise

ONE = [{"inputs": [torch.zeros(3, 2, 2)]}]


class Gives:
    """A model of one region, the whole, that gives the same for whatever images."""

    region_names = ("",)

    def __init__(self, *outputs: Any) -> None:
        self.outputs = iter(outputs)

    def raw(self, inputs: list[torch.Tensor]) -> Any:
        """The next output."""
        del inputs
        return next(self.outputs)


def noise(quantized: Any, exact: Any) -> dict[str, Any]:
    found: dict[str, Any] = raw_noise(Gives(quantized), Gives(exact), ONE, "cpu")  # type: ignore[arg-type]
    return found


def test_boxes_in_pixels_do_not_hide_scores() -> None:
    """Boxes of 100 ± 0.1 pixels, 60 dB, and scores of 0.5 ± 0.25, 6 dB."""
    boxes, scores = torch.full((1, 10, 4), 100.0), torch.full((1, 10, 3), 0.5)
    found = noise(
        {"boxes": boxes + 0.1, "scores": scores - 0.25}, {"boxes": boxes, "scores": scores}
    )
    assert found["sqnr_db_outputs"] == {
        "boxes": pytest.approx(60, abs=1e-3),
        "scores": pytest.approx(20 * math.log10(2)),
    }
    assert found["sqnr_db_worst"] == pytest.approx(20 * math.log10(2))
    together = (40 * 1e4 + 30 * 0.25) / (40 * 0.01 + 30 * 0.0625)
    assert found["sqnr_db"] == pytest.approx(10 * math.log10(together), abs=1e-4)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("boxes_first", [True, False])
def test_columns_of_two_kinds_are_told_apart(axis: int, boxes_first: bool) -> None:
    """One tensor with both, as YOLO's heads give it: [N, A, 4 + C] or [N, 4 + C, A]."""
    boxes = torch.full((1, 600, 4), 100.0)
    scores = torch.tensor([0.5, 1e-6, 0.02]).expand(1, 600, 3)
    parts = [(boxes, boxes + 0.1), (scores, scores * 0.5)]
    exact, other = (
        torch.cat([pair[i] for pair in (parts if boxes_first else parts[::-1])], 2)
        for i in range(2)
    )
    found = noise(other.transpose(2, axis), exact.transpose(2, axis))
    before = ":, " * axis
    names = [f"output[{before}0:4]", f"output[{before}4:7]"]
    if not boxes_first:
        names = [f"output[{before}3:7]", f"output[{before}0:3]"]
    assert found["sqnr_db_outputs"] == {
        names[0]: pytest.approx(60, abs=1e-3),
        names[1]: pytest.approx(20 * math.log10(2)),
    }
    assert found["sqnr_db_worst"] == pytest.approx(20 * math.log10(2))


def test_columns_of_one_kind_stay_together() -> None:
    exact = torch.tensor([1.0, 7.0, 2.0, 5.0, 3.0]).expand(2, 600, 5)
    found = noise([exact * 1.1], [exact])
    assert found["sqnr_db_outputs"] == {"0": pytest.approx(20)}


def test_all_images_count() -> None:
    exact = [torch.full((1, 5, 4), 1.0), torch.full((1, 7, 4), 3.0)]  # anchors of two sizes
    other = [exact[0] + 1, exact[1]]
    found = raw_noise(Gives(*other), Gives(*exact), ONE * 2, "cpu")  # type: ignore[arg-type]
    assert found["sqnr_db_worst"] == pytest.approx(10 * math.log10((20 + 28 * 9) / 20))


def test_nothing_is_said_where_there_is_no_noise_or_no_same_shape() -> None:
    exact = {"a": torch.ones(1, 5, 4), "n": 3, "i": torch.ones(2, dtype=torch.int64)}
    assert noise(exact, exact) == {
        "sqnr_db": None, "sqnr_db_outputs": {"a": None}, "sqnr_db_worst": None
    }  # fmt: skip
    other = {**exact, "a": torch.ones(1, 6, 4)}
    assert noise(other, exact) == {
        "sqnr_db": None, "sqnr_db_outputs": {}, "sqnr_db_worst": None
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_raw_outputs_of_regions_have_their_names(name: str) -> None:
    images = pictures()
    model = subbyte.quantize(detector(name), [images], subbyte.Recipe(method="range"))
    found = raw_noise(model, model.float_model, [{"inputs": images}], "cpu")
    names = {
        "ssd": {"head.bbox_regression", "head.cls_logits"},
        "retinanet": {"head.bbox_regression", "head.cls_logits"},
        "fcos": {"head.bbox_regression", "head.cls_logits", "head.bbox_ctrness"},
    }
    if name in names:
        assert {key.partition("[")[0] for key in found["sqnr_db_outputs"]} == names[name]
        assert 10 < found["sqnr_db_worst"] <= found["sqnr_db"]
