"""Seconds that the ranges of all quantizers of a model take, on one thread.

    uv run python benchmarks/calibration.py

ResNet-20 for CIFAR-10 with its published weights and 1,024 real images from $SUBBYTE_DATA.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

import subbyte
from subbyte import api, models
from subbyte.data import open_calibration
from subbyte.graph.calibrate import calibrate
from subbyte.progress import Silent


def main() -> None:
    """Time the calibration at three widths."""
    if "SUBBYTE_DATA" not in os.environ:
        sys.exit("SUBBYTE_DATA is not set: it names the folder of real data")
    root = Path(os.environ["SUBBYTE_DATA"]) / "cifar10"
    torch.set_num_threads(1)
    checkpoint = root / "resnet20-12fca82f.th"
    spec = models.load(models.ModelConfig(name="cifar_resnet20", checkpoint=checkpoint))
    batches = open_calibration(
        str(root / "train"), spec.preprocessing, images=1024, seed=0, batch_size=64
    )
    inputs = [(batch["inputs"],) for batch in batches]
    for weights, activations in ((8, 8), (4, 4), (2, 4)):
        recipe = subbyte.Recipe(weights=weights, activations=activations)
        captured = api.prepare(spec.module, inputs[0], recipe)
        wall, cpu = time.perf_counter(), time.process_time()
        calibrate(captured, inputs, Silent())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"W{weights}A{activations}: {len(captured.tensors)} quantizers on 1,024 images in "
            f"{wall:.1f} s ({cpu:.1f} s of one core)"
        )


if __name__ == "__main__":
    main()
