"""ExecuTorch's files beside those of its own XNNPACKQuantizer: accuracy and latency.

    SUBBYTE_DATA=… uv run python benchmarks/xnnpack.py --images 1000
    uv run python benchmarks/xnnpack.py --model resnet18 --images 0

Both quantize the same float model to 8 bits on the same calibration images: Subbyte by its default
method (or as --recipe says) for the target `executorch`, XNNPACKQuantizer as ExecuTorch's
documentation advises, with symmetric weights per channel. Both files run the same evaluation
images. Latencies are of one image, side by side, in turns, in one process, on --threads threads;
the ratio is the median of the rounds' ratios. The processor's own time, of all threads together,
says more than the clock where others are at work on the machine.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

import subbyte
from models import REAL, photographs, prepared
from subbyte import models
from subbyte.data import read_image_tensor
from subbyte.data.images import image_files
from subbyte.targets import base
from subbyte.targets.base import Session
from subbyte.targets.xnnpack.program import quietly, write_program

BATCH, WARM_UP = 16, 10
OURS, THEIRS = "Subbyte", "XNNPACKQuantizer"


def main() -> None:
    """Print what both files give, and what they take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=REAL)
    parser.add_argument("--images", type=int, default=1000, help="to evaluate (default: 1000)")
    parser.add_argument("--calibration", type=int, default=128, help="images (default: 128)")
    parser.add_argument("--recipe", default="{}", metavar="YAML")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    module, calibration = model_and_calibration(options.model, options.calibration)
    recipe = subbyte.Recipe(target="executorch", **yaml.safe_load(options.recipe))
    example = calibration[:1]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.pte" for name in (OURS, THEIRS)}
        quantized = subbyte.quantize(module, list(torch.split(calibration, BATCH)), recipe)
        subbyte.export(quantized, paths[OURS], example)
        paths[THEIRS].write_bytes(by_xnnpack_quantizer(module, calibration))
        runtime = base.runtime("executorch")
        sessions = {name: runtime.load(path, options.threads) for name, path in paths.items()}
        for name, session in sessions.items():
            size = paths[name].stat().st_size / 1e6
            print(f"{name}: {session.int8_ops()} layers with int8 kernels, {size:.2f} MB")
        print(latencies(sessions, example.numpy(), options.rounds))
        if options.images:
            evaluate(options.model, module, sessions, options.images)


def model_and_calibration(name: str, count: int) -> tuple[nn.Module, torch.Tensor]:
    """A float model, and images to calibrate with."""
    module, calibration, _ = prepared(name, None)
    root = os.environ.get("SUBBYTE_DATA")
    if name == REAL and root:
        preprocessing = models.load(models.ModelConfig(name=name)).preprocessing
        assert preprocessing is not None
        calibration = photographs(Path(root) / "imagenet" / "calibration", count, preprocessing)
    return module.eval(), calibration


def by_xnnpack_quantizer(module: nn.Module, calibration: torch.Tensor) -> bytes:
    """The `.pte` of ExecuTorch's own quantization."""
    with quietly(), torch.no_grad():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantizer: Any = XNNPACKQuantizer()
        quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
        captured: Any = torch.export.export(module, (calibration[:1],)).module()
        observed = prepare_pt2e(captured, quantizer)
        for image in torch.split(calibration, 1):
            observed(image)
        made = convert_pt2e(observed)
    return write_program(made, (calibration[:1],), {}).content


def latencies(sessions: dict[str, Session], image: np.ndarray, rounds: int) -> str:
    """Milliseconds of both and the ratio: by the clock, and of the processor's own time."""
    return "; ".join(
        timed(sessions, image, rounds, clock, name)
        for name, clock in (("by the clock", time.perf_counter), ("processor", time.process_time))
    )


def timed(
    sessions: dict[str, Session],
    image: np.ndarray,
    rounds: int,
    clock: Callable[[], float],
    name: str,
) -> str:
    """Median milliseconds of both by one clock, and the median of the rounds' ratios."""
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for i in range(WARM_UP + rounds):
        for key in sorted(sessions, reverse=bool(i % 2)):
            before = clock()
            sessions[key].run(image)
            if i >= WARM_UP:
                taken[key].append((clock() - before) * 1000)
    ratios = [a / b for a, b in zip(taken[OURS], taken[THEIRS], strict=True)]
    shown = ", ".join(f"{key} {median(own):.2f} ms" for key, own in taken.items())
    return f"{name}: {shown}, ratio {median(ratios):.3f}"


@torch.no_grad()
def evaluate(name: str, module: nn.Module, sessions: dict[str, Session], count: int) -> None:
    """Print top-1 of the float model and of both files, and how often they agree with it."""
    root = os.environ.get("SUBBYTE_DATA")
    if name != REAL or root is None:
        sys.exit(f"accuracy is measured of {REAL} on the images in $SUBBYTE_DATA: give --images 0")
    folder = Path(root) / "imagenet" / "val"
    preprocessing = models.load(models.ModelConfig(name=name)).preprocessing
    assert preprocessing is not None
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = image_files(folder)
    files = files[:: max(len(files) // count, 1)][:count]
    right, agree = dict.fromkeys(["float", *sessions], 0), dict.fromkeys(sessions, 0)
    for file in files:
        image, label = read_image_tensor(file, preprocessing), classes.index(file.parent.name)
        exact = int(module(image).argmax())
        right["float"] += exact == label
        for key, session in sessions.items():
            found = int(session.run(image.numpy())[0].argmax())
            right[key] += found == label
            agree[key] += found == exact
    for key, hits in right.items():
        agreed = f", {100 * agree[key] / len(files):.1f} % as float" if key in agree else ""
        print(f"{key}: top-1 {100 * hits / len(files):.1f} % of {len(files)} images{agreed}")


if __name__ == "__main__":
    main()
