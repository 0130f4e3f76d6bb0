"""Layers of a detector, to which nearly all of an image is background."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from subbyte import Recipe, api
from subbyte.data.batches import ArgumentsOf
from subbyte.detectors.common.output_loss import Readable, detection_loss
from subbyte.graph.float_model import FloatModel

RECIPE = Recipe(weights=3, activations=8, method={"name": "subbyte", "steps": 0}, first_last=None)


class Scores(nn.Module):
    """A score at each place, high at one in about 300."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, 1, 1),
        )
        with torch.no_grad():
            logits = self.layers(images).flatten()
            high = torch.quantile(logits[::5], torch.tensor([0.5, 0.997]))
            last = self.layers[-1]
            factor = 8 / (high[1] - high[0])
            last.weight.mul_(factor)
            last.bias.copy_((last.bias - high[1]) * factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.sigmoid(self.layers(x)).flatten(2)
        return found


def read(outputs: torch.Tensor, _: object) -> Readable:
    boxes = torch.zeros(*outputs.shape[::2], 4)
    return Readable(boxes, torch.ones(()), outputs.transpose(1, 2))


def pictures(count: int, seed: int) -> torch.Tensor:
    """Noise, and small bright spots in it."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 64, 64, generator=generator) * 0.3
    for image in images:
        for row, column in torch.randint(0, 60, (3, 2), generator=generator).tolist():
            image[:, row : row + 4, column : column + 4] += (
                torch.randn(3, 1, 1, generator=generator) * 3
            )
    return images


def loss_on(float_model: FloatModel, images: torch.Tensor, others: torch.Tensor) -> float:
    """Of other images than those of the calibration, as the detector's own loss has it."""
    found = api.quantize_captured(float_model, ArgumentsOf([images], torch.device("cpu")), RECIPE)
    with torch.no_grad():
        scores, expected = found.raw(others), float_model.raw(others)
        return float((scores - expected).square().sum() / expected.square().sum())


def test_layers_are_fitted_where_the_objects_are() -> None:
    images, others = pictures(20, seed=1), pictures(20, seed=2)
    net = Scores(images).eval()
    loss = detection_loss(read)
    float_model = replace(api.capture(net, (images,)), output_loss=loss)
    by_chance = replace(float_model, output_loss=replace(loss, energy=None))
    ours, plain = (loss_on(x, images, others) for x in (float_model, by_chance))
    assert ours < 0.8 * plain
