"""Seconds that the ranges of all quantizers of a model take, on one thread.

    uv run python benchmarks/calibration.py

ResNet-20 for CIFAR-10 with its published weights and 1,024 real images from $SUBBYTE_DATA.
"""

from __future__ import annotations

import time

from cifar10 import resnet20

import subbyte
from subbyte import api, targets
from subbyte.methods.common.context import Context
from subbyte.methods.range import Options, quantize
from subbyte.placement.place import place


def main() -> None:
    """Time the calibration at three widths."""
    module, batches = resnet20()
    float_model = api.capture(module, next(iter(batches)))
    for weights, activations in ((8, 8), (4, 4), (2, 4)):
        recipe = subbyte.Recipe(weights=weights, activations=activations)
        placement = place(float_model, recipe, targets.hints())
        wall, cpu = time.perf_counter(), time.process_time()
        quantize(float_model, placement, batches, Options(), Context())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"W{weights}A{activations}: {len(placement.tensors)} quantizers on 1,024 images in "
            f"{wall:.1f} s ({cpu:.1f} s of one core)"
        )


if __name__ == "__main__":
    main()
