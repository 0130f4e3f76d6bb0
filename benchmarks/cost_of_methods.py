"""What methods cost, in runs of the float model: `python benchmarks/cost_of_methods.py`.

Processor time of `subbyte.quantize` over that of one image through the float model, so that a
figure holds for any machine and, roughly, for any network. The peak is that of the whole process
until then, torch, images and earlier methods included.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import torch

import subbyte
from subbyte import models
from subbyte.app.estimate import look_at, seconds
from subbyte.data import open_calibration
from subbyte.data.batches import ArgumentsOf
from subbyte.models import ModelConfig
from subbyte.recipe import Recipe

RECIPES: dict[str, dict[str, Any]] = {
    "range": {"weights": 8},
    "bias_correction": {"weights": 8},
    "subbyte": {"weights": 4},
    "lapq": {"weights": 4},
    "adaround": {"weights": 4},
    "brecq": {"weights": 4},
    "qdrop": {"weights": 4},
}


def main() -> None:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--checkpoint")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--methods", nargs="*", default=list(RECIPES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    spec = models.load(ModelConfig(name=asked.model, checkpoint=asked.checkpoint))
    batches = open_calibration(
        asked.data, spec.preprocessing, images=asked.images, seed=0, batch_size=64
    )
    kept = [batch["inputs"] for batch in batches]
    look = look_at(spec.module, next(iter(ArgumentsOf(kept, torch.device("cpu")))))
    print(f"{asked.model}, {look.multiply_adds / 1e6:.0f} million multiply-adds, ", end="")
    print(f"{1000 * look.seconds:.2f} ms an image, {asked.images} images")
    print("| method | runs of the float model | an image | estimated | seconds | peak, MB |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in asked.methods:
        recipe = Recipe(**RECIPES[name], method=name)
        started = time.process_time()
        subbyte.quantize(spec.module, kept, recipe)
        taken = time.process_time() - started
        runs = taken / look.seconds
        expected = seconds(recipe, look, asked.images) / look.seconds
        each = runs / asked.images
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        costs = f"{runs:.0f} | {each:.0f} | {expected:.0f} | {taken:.0f} | {peak:.0f}"
        print(f"| `{name}` | {costs} |", flush=True)


if __name__ == "__main__":
    main()
