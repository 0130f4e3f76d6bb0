"""What broke detectors elsewhere, kept alive: one scale for boxes and scores, sums in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

import subbyte
from small_detectors import detector, pictures
from subbyte.graph.float_model import interpreted
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.numerics.qparams import TensorQParams
from subbyte.numerics.qspec import QSpec, qparams_of
from subbyte.placement.simulation import Simulation

THRESHOLD = 0.05
RANGE = subbyte.Recipe(method="range", ranges="minmax")


class Decoding(nn.Module):
    """A detector as exported ones are: boxes in pixels and scores concatenated, [N, A, 4 + 3]."""

    def __init__(self, side: int = 640) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 3, 1)
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        corners = self.boxes(x).sigmoid().flatten(2).transpose(1, 2) * self.side
        return torch.cat([corners, self.scores(x).sigmoid().flatten(2).transpose(1, 2)], 2)


def decoding() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Decoding().eval(), torch.stack(pictures(8))


def test_one_scale_for_boxes_and_scores_loses_all_scores() -> None:
    model, images = decoding()
    with torch.no_grad():
        outputs = model(images)
    assert outputs[..., 4:].min() > THRESHOLD
    spec = QSpec(8, False)
    found = qparams_of(outputs.min().reshape(1), outputs.max().reshape(1), spec)
    shared = FakeQuantize(spec, "concatenation", TensorQParams(*found))
    assert float(shared.scale) > 1.25  # of a step more than a half is what a score would need
    assert shared.quantize(outputs)[..., 4:].max() < THRESHOLD


def test_the_default_quantizes_boxes_and_scores_apart() -> None:
    model, images = decoding()
    quantized = subbyte.quantize(model, [images], RANGE)
    with torch.no_grad():
        outputs, found = model(images), quantized(images)
    torch.testing.assert_close(found[..., 4:], outputs[..., 4:], rtol=0, atol=0.02)
    torch.testing.assert_close(found[..., :4], outputs[..., :4], rtol=0, atol=12.8)  # 2 %
    assert {t.layer for t in quantized.placement.tensors} <= {"body.0", "boxes", "scores"}


class _Saturating(fx.Interpreter):
    """Runs a region whose convolutions hold their sums in 16 bits."""

    def __init__(self, simulation: Simulation, region: str) -> None:
        super().__init__(simulation.region(region))
        self.steps = {
            layer.node: (simulation, layer)
            for layer in simulation.placement.layers
            if layer.region == region
        }
        self.saturated = self.values = 0

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        if n.name not in self.steps:
            return output
        bias = next(b for b in n.all_input_nodes if "bias" in str(b.target))
        step = self.module.get_submodule(str(bias.target)).scale.view(1, -1, 1, 1)
        self.values += output.numel()
        held = torch.maximum(torch.minimum(output, 32767 * step), -32768 * step)
        self.saturated += int((held != output).sum())
        return held


def test_sums_of_16_bits_saturate_and_objects_are_lost() -> None:
    model = subbyte.quantize(detector("ssd"), [pictures(4, seed=s) for s in range(2)], RANGE)
    images = pictures(4, seed=9)
    runs = {name: _Saturating(model, name) for name in model.region_names}
    with torch.no_grad():
        right = model(images)
        with (
            interpreted(model.region("backbone"), runs["backbone"]),
            interpreted(model.region("head"), runs["head"]),
        ):
            wrong = model(images)
    assert runs["backbone"].saturated > 0.1 * runs["backbone"].values
    kept = []
    for one, other in zip(right, wrong, strict=True):
        near = torch.cdist(one["boxes"], other["boxes"], p=float("inf")) < 3.2  # 5 % of the image
        near &= one["labels"][:, None] == other["labels"]
        near &= (one["scores"][:, None] - other["scores"]).abs() < 0.1
        kept.append(float(near.any(1).float().mean()))
    assert max(kept) < 0.5
