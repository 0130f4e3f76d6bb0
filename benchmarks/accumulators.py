"""Accumulators of fewer than 32 bits: where a classifier falls, and why an SSD finds nothing.

    python benchmarks/accumulators.py classifier --images 2000
    python benchmarks/accumulators.py ssd

`classifier`: ResNet-20 on CIFAR-10 at W8A8 by ranges alone (data and weights from $SUBBYTE_DATA).
Two tables: top-1 with all accumulators of 32, 24, 20, 18 and 16 bits, the time beside that of the
plain simulation, and the layers most of whose sums saturate; and top-1 where one layer alone has 16
bits. `ssd`: the bundled SSD on its scenes: how far its class logits go, and its highest score; as
it is, and with as many classes as COCO has and class heads four times as wide, which compute the
same: the additional classes never have a score, and each channel is read four times with a quarter
of the weight.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cifar10 import resnet20
from torch import nn

import subbyte
from subbyte import models
from subbyte.calibration import saturation
from subbyte.calibration.clipping import share
from subbyte.data import open_evaluation
from subbyte.data.detection.scenes import scene
from subbyte.placement.place import place
from subbyte.placement.simulation import Simulation, simulate

RECIPE: dict[str, Any] = {
    "ranges": "avg",
    "method": "range",
    "symmetric_weights": False,
    "first_last": None,
}
WIDTHS = (32, 24, 20, 18, 16)
COCO, NEVER = 81, -8.0  # its classes with the background; a logit that no score comes of
Batch = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["classifier", "ssd"])
    parser.add_argument("--images", type=int, default=2000, help="of the 10,000 test images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "ssd":
        ssd()
    else:
        classifier(options.images)


def with_sums(plain: Simulation, **fields: Any) -> Simulation:
    """The same parameters with other accumulators.

    Args:
        plain: Of `RECIPE`.
        fields: `accumulator` or `overrides`.
    """
    placement = place(plain.float_model, subbyte.Recipe(**RECIPE, **fields))
    return simulate(plain.float_model, placement, plain.params)


def classifier(images: int) -> None:
    """Print both tables."""
    module, calibration = resnet20()
    batches = evaluated(images)
    plain = subbyte.quantize(module, [args[0] for args in calibration], subbyte.Recipe(**RECIPE))
    plain = with_sums(plain)
    base, *_ = measured(plain, batches)
    print(f"| bits | top-1 %, {images} images | time | layers whose sums saturate most |")
    print("|---:|---:|---:|---|")
    for bits in WIDTHS:
        _, before, _ = measured(plain, batches)
        top1, seconds, shares = measured(with_sums(plain, accumulator=bits), batches)
        most = sorted(shares.items(), key=lambda pair: -pair[1])[:4]
        named = ", ".join(f"`{layer}` {part:.1%}" for layer, part in most if part > 0) or "none"
        print(f"| {bits} | {100 * top1:.2f} | {seconds / before:.1f} × | {named} |", flush=True)
    print("\n| the one layer with 16 bits | its sums that saturate | top-1 less, points |")
    print("|---|---:|---:|")
    for layer in plain.float_model.layer_names:
        alone = with_sums(plain, overrides={layer.replace(".", r"\."): {"accumulator": 16}})
        top1, _, shares = measured(alone, batches)
        print(f"| `{layer}` | {shares[layer]:.1%} | {100 * (base - top1):.2f} |", flush=True)


def evaluated(images: int) -> list[Batch]:
    """Every k-th of the test images, with labels."""
    root = Path(os.environ["SUBBYTE_DATA"]) / "cifar10" / "test"
    spec = models.load(models.ModelConfig(name="cifar_resnet20"))
    opened = open_evaluation(str(root), spec.preprocessing, batch_size=250)
    found = opened.labelled(10, spec.classes).batches
    numbers = range(0, found.images, found.images // images)
    return [(batch["inputs"], batch["targets"]) for batch in found.take(tuple(numbers))]


@torch.no_grad()
def measured(model: Simulation, batches: list[Batch]) -> tuple[float, float, dict[str, float]]:
    """Top-1, processor seconds, and layer → share of its sums that saturate."""
    right = total = 0
    with saturation.counting(model) as counts:
        started = time.process_time()
        for images, labels in batches:
            right += int((model(images).argmax(1) == torch.as_tensor(labels)).sum())
            total += len(images)
        seconds = time.process_time() - started
    return right / total, seconds, {name: share(found) or 0.0 for name, found in counts.items()}


@dataclass(frozen=True)
class Scores:
    """What an SSD gives for some scenes.

    Attributes:
        lowest: The lowest logit of a class.
        highest: The highest one.
        score: The highest score of any box, the background's aside.
        found: How many objects it finds, from its own threshold of 0.05 on.
    """

    lowest: float
    highest: float
    score: float
    found: int


def ssd(scenes: int = 16) -> None:
    """Print what the bundled SSD gives with narrower accumulators."""
    print("| SSD | bits | class logits | highest score | objects found |")
    print("|---|---:|---:|---:|---:|")
    for name, model in (("as it is", bundled()), ("81 classes, heads 4 × as wide", widened())):
        plain = quantized(model)
        for bits in (32, 20, 18, 16):
            its = scores(with_sums(plain, accumulator=bits), pictures("evaluation", scenes))
            span = f"{its.lowest:.2f} to {its.highest:.2f}"
            print(f"| {name} | {bits} | {span} | {its.score:.3f} | {its.found} |", flush=True)


def bundled() -> nn.Module:
    """The bundled SSD."""
    module: nn.Module = models.load(models.ModelConfig(name="digit-scenes")).module
    return module


def quantized(model: nn.Module) -> Simulation:
    """It at W8A8 by ranges alone, calibrated on 32 scenes."""
    images = pictures("train", 32)
    return subbyte.quantize(model, [images[:16], images[16:]], subbyte.Recipe(**RECIPE))


def pictures(split: Any, count: int) -> list[torch.Tensor]:
    """The first scenes of a split, [3, H, W] in [0, 1]."""
    arrays = [scene(split, number)[0] for number in range(count)]
    return [torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in arrays]


@torch.no_grad()
def scores(model: Simulation, images: list[torch.Tensor]) -> Scores:
    """What a quantized SSD gives for some images."""
    logits = model.raw(images)[-1]
    best = logits.softmax(-1)[..., 1:].max()
    found = sum(len(one["boxes"]) for one in model(images))
    return Scores(float(logits.min()), float(logits.max()), float(best), found)


def widened(times: int = 4) -> nn.Module:
    """The bundled SSD with COCO's number of classes, and class heads so many times as wide."""
    model: Any = copy.deepcopy(bundled())
    classes = model.num_classes
    for number, conv in enumerate(model.network.classes):
        model.network.classes[number] = _Wide(conv, classes, times)
    model.num_classes = model.network.num_classes = COCO
    made: nn.Module = model
    return made


class _Wide(nn.Module):
    """A class head that computes the same with more channels, and classes that never occur."""

    def __init__(self, conv: nn.Conv2d, classes: int, times: int) -> None:
        super().__init__()
        self.times = times
        assert conv.bias is not None
        anchors = conv.out_channels // classes
        self.conv = nn.Conv2d(conv.in_channels * times, anchors * COCO, 3, padding=1)
        weight = torch.zeros(anchors, COCO, *self.conv.weight.shape[1:])
        bias = torch.full((anchors, COCO), NEVER)
        own = conv.weight.detach().reshape(anchors, classes, *conv.weight.shape[1:])
        weight[:, :classes] = own.repeat(1, 1, times, 1, 1) / times
        bias[:, :classes] = conv.bias.detach().reshape(anchors, classes)
        self.conv.weight = nn.Parameter(weight.flatten(0, 1))
        self.conv.bias = nn.Parameter(bias.flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, (images, anchors · classes, rows, columns)."""
        logits: torch.Tensor = self.conv(torch.cat([x] * self.times, 1))
        return logits


if __name__ == "__main__":
    main()
