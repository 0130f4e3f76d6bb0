"""What errors of a detector cost, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import detection

from subbyte import api
from subbyte.detection import Outputs, Preprocessing
from subbyte.detectors import output_loss
from subbyte.detectors.common.output_loss import of_anchors
from subbyte.detectors.raw_outputs import raw_detector
from subbyte.graph.output_loss import OutputLoss

SIDE = 16


class Fixed(nn.Module):
    """Two boxes, an object of 4 × 8 pixels with a score of 0.9 and one of the background."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Conv2d(3, 2 * 6, SIDE)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.scale(images).reshape(-1, 2, 6)
        return found


ROWS = torch.tensor([[[8.0, 8.0, 4.0, 8.0, 0.9, 0.1], [3.0, 3.0, 6.0, 6.0, 0.0, 0.0]]])
ENERGY = 0.9**2 + 0.1**2 + 0.9 * 4 * 0.25


@pytest.fixture(scope="module")
def loss() -> OutputLoss:
    model = raw_detector(
        Fixed(), Outputs(form="decoded", classes=2, objectness=False), Preprocessing()
    )
    found = output_loss(model.eval(), ("network",))
    assert found is not None
    return found


def distance(loss: OutputLoss, changes: list[float], box: int) -> float:
    found = ROWS.clone()
    found[0, box] += torch.tensor(changes)
    return float(loss.distances((found,), (ROWS,), (torch.zeros(1, 3, SIDE, SIDE),)))


def test_a_box_counts_in_its_sides_by_its_score(loss: OutputLoss) -> None:
    # One pixel to the right is a quarter of the width, of both ends.
    moved = distance(loss, [1, 0, 0, 0, 0, 0], 0)
    assert moved == pytest.approx(0.9 * 2 * 0.25**2 / ENERGY, rel=1e-4)


def test_a_box_of_the_background_costs_nothing_and_a_score_there_does(loss: OutputLoss) -> None:
    assert distance(loss, [5, 5, 0, 0, 0, 0], 1) == pytest.approx(0, abs=1e-9)
    risen = distance(loss, [0, 0, 0, 0, 0.5, 0], 1)
    assert risen == pytest.approx(0.25 / ENERGY, rel=1e-4)


def test_the_captured_model_has_it() -> None:
    model = raw_detector(Fixed(), Outputs(form="decoded", classes=2), Preprocessing()).eval()
    images = torch.rand(2, 3, SIDE, SIDE)
    float_model = api.capture(model, (images,))
    raw = float_model.raw(images)
    assert float(float_model.output_loss.mean(raw, raw, (images,))) == 0
    assert not float_model.output_loss.by_column(raw)


def test_offsets_from_anchors_count_by_the_best_score_behind_the_activation() -> None:
    loss = of_anchors(lambda logits: logits.softmax(-1)[..., 1:], (10.0, 10.0, 5.0, 5.0))
    logits = torch.tensor([[[0.0, 0.0]]])  # a score of 0.5
    offsets = torch.zeros(1, 1, 4)
    moved = offsets + torch.tensor([1.0, 0.0, 0.0, 0.0])  # a tenth of the anchor's width
    energy = 0.25 + 0.5 * 4 * 0.25
    for found, expected in (((moved, logits), (offsets, logits)),):
        assert float(loss.mean(found, expected, ())) == pytest.approx(0.5 * 0.01 / energy)


@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"]
)
def test_one_stage_detectors_of_torchvision_have_one(name: str) -> None:
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3).eval()
    loss = output_loss(model, ("backbone", "head"))
    assert loss is not None
    boxes, classes = torch.randn(2, 7, 4), torch.randn(2, 7, 3)
    raw: tuple[torch.Tensor, ...] = (classes, boxes)
    if name.startswith("fcos"):
        raw = (classes, boxes, torch.randn(2, 7, 1))
    elsewhere = tuple(x + 0.1 for x in raw)
    assert float(loss.mean(raw, raw, ())) == 0
    assert loss.distances(elsewhere, raw, ()).shape == (2,)
    assert not loss.by_column(raw)
    assert output_loss(model, ("backbone",)) is None  # of other regions nothing is known
