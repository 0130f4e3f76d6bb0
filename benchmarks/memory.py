"""Peak memory of `subbyte run` on ResNet-50, by the number of calibration images.

    uv run python benchmarks/memory.py --images 512 2048

Random weights and made-up JPEG files of 256 × 256, cropped to 224; W8A8 by the default recipe, 32
evaluation images, no runtimes. Each run is a process of its own; its peak is what the kernel says.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from subbyte import models

EVALUATED = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, nargs="+", default=[512, 2048])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.model, max(options.images))
        for count in options.images:
            megabytes, seconds = peak(folder, count)
            print(f"{count:5} calibration images: peak {megabytes:.0f} MB, {seconds:.0f} s")


def make(folder: Path, model: str, images: int) -> None:
    """Weights, images and the experiment."""
    torch.manual_seed(0)
    torch.save(models.build(model).state_dict(), folder / "model.pth")
    generator = np.random.default_rng(0)
    for split, count in (("calibration", images), ("evaluation/n01440764", EVALUATED)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((256, 256)).save(folder / split / f"{i}.jpg")
    described = {
        "name": "memory",
        "model": {"name": model, "checkpoint": str(folder / "model.pth")},
        "data": {
            "calibration": str(folder / "calibration"),
            "evaluation": str(folder / "evaluation"),
        },
        "variants": {"w8a8": {}},
        "runtimes": [],
    }
    (folder / "memory.yaml").write_text(yaml.safe_dump(described))


def peak(folder: Path, count: int) -> tuple[float, float]:
    """Peak resident memory in MB and seconds of one run."""
    out = folder / f"run{count}"
    command = [str(Path(sys.executable).with_name("subbyte")), "run", str(folder / "memory.yaml")]
    command += ["--out", str(out), "--set", f"data.calibration_images={count}"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"the run with {count} images ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


if __name__ == "__main__":
    main()
