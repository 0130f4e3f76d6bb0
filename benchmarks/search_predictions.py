"""The search's predictions beside what was measured, for random configurations of ResNet-20.

    SUBBYTE_DATA=DIR python benchmarks/search_predictions.py [--configurations 20] [--build]

Each layer gets a width at random. Predicted is the sum of what the layers lose alone; measured is
the output loss on 1,000 test images that nothing was fitted to, of the integers that were solved
once, put together, and with --build of the recipe without tuning. Printed are both, and the rank
correlation (Spearman).
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

import torch
from cifar10 import resnet20
from scipy.stats import spearmanr

from subbyte import api, models
from subbyte.bit_search import recipes, sensitivity
from subbyte.bit_search.choose import Chosen
from subbyte.data import open_calibration
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.utils.progress import Silent

WIDTHS = (2, 3, 4, 5, 6, 8)
IMAGES = 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--configurations", type=int, default=20)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    module, batches = resnet20()
    float_model = api.capture(module, next(iter(batches)))
    base = Recipe(first_last=None, method={"name": "subbyte", "steps": 0})
    started = time.perf_counter()
    measured, solved = sensitivity.measure(
        float_model, base, batches, lambda layer: WIDTHS, (8,), Silent()
    )
    print(f"layers measured on {measured.images} images in {time.perf_counter() - started:.0f} s")
    units = recipes.units_by_size(measured)
    keys = {one.layer: one.key for one in measured.of_role("weight")}
    images = test_images()
    draw = random.Random(asked.seed)
    rows: list[tuple[float, ...]] = []
    for _ in range(asked.configurations):
        options = tuple(draw.choice([o for o in u.options if o.weights]) for u in units)
        chosen = Chosen(options)
        bits = {keys[u.name]: o.weights for u, o in zip(units, options, strict=True) if o.weights}
        row = [chosen.loss, loss(solved.simulation(bits), module, images)]
        if asked.build:
            recipe = recipes.recipe_for(base, units, chosen)
            row.append(loss(api.quantize_captured(float_model, batches, recipe), module, images))
        rows.append(tuple(row))
        print("  ".join(f"{value:.4f}" for value in row), flush=True)
    predicted, *others = zip(*rows, strict=True)
    for name, values in zip(("put together", "built"), others, strict=False):
        print(f"{name}: rank correlation {spearmanr(predicted, values).statistic:.3f}")


def test_images() -> torch.Tensor:
    """Every tenth test image."""
    root = Path(os.environ["SUBBYTE_DATA"]) / "cifar10" / "test"
    spec = models.load(models.ModelConfig(name="cifar_resnet20"))
    found = open_calibration(str(root), spec.preprocessing, images=IMAGES, seed=0, batch_size=250)
    return torch.cat([batch["inputs"] for batch in found])


@torch.no_grad()
def loss(simulation: Simulation, module: torch.nn.Module, images: torch.Tensor) -> float:
    """The mean output loss."""
    distances = simulation.float_model.output_loss.distances
    parts = torch.split(images, 250)
    losses = [distances(simulation(part), module(part), (part,)) for part in parts]
    return float(torch.cat(losses).mean())


if __name__ == "__main__":
    main()
