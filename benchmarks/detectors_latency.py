"""Latency of detectors' networks at W8A8: ours, those of two other tools, and float, in one run.

    uv run --group benchmarks python benchmarks/detectors_latency.py --json detectors.json

As benchmarks/latency.py, whose terms these are (batch 1, 2 threads, contenders taking turns, files
loaded anew several times, ratios of one round with 95 % intervals), but for detectors, from an
image in [0, 1] to the raw outputs of the heads: PyTorch eager; the float ONNX file; ours, each
runtime with its own file; and what `onnxruntime.quantization.quantize_static` and `nncf.quantize`
make of the same float file. Weights are random, images made up.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import latency
import rivals
import torch
from torch import nn
from torchvision.models import detection

import subbyte
from subbyte import models
from subbyte.detectors.common.one_stage import OneStage
from subbyte.placement.simulation import Simulation
from subbyte.targets.onnx import export as onnx

BATCH, BATCHES = 2, 4  # of made-up images
SIDES = {
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "retinanet_resnet50_fpn": 320,
    "nvidia_ssd300_resnet50": 300,
    "mb2_ssd_lite": 300,
}
RECIPE = subbyte.Recipe(ranges="minmax", method="range")


def main() -> None:
    """Measure one detector after the other, and print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(SIDES), help=", ".join(SIDES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loads", type=int, default=8, help="how often all files are loaded")
    parser.add_argument("--rounds", type=int, default=20, help="of each load")
    parser.add_argument("--json", type=Path, help="where the rows are to be written too")
    parser.set_defaults(batch=1, size=None)
    options = parser.parse_args()
    strangers = set(options.models) - set(SIDES)
    if strangers:
        parser.error(f"unknown {', '.join(sorted(strangers))}: there are {', '.join(SIDES)}")
    rivals.check()
    torch.set_num_threads(options.threads)
    print(f"batch 1, {options.threads} threads, raw outputs", flush=True)
    rows: list[latency.Row] = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), options)
        if options.json is not None:
            latency.write(options.json, rows, options)
        gc.collect()
    for line in latency.means(rows):
        print(line)


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[latency.Row]:
    """The rows of one detector: one for each contender in each runtime."""
    batches = made_up(SIDES[name])
    module = prepared(name, SIDES[name], batches)
    quantized = subbyte.quantize(module, [list(batch) for batch in batches], RECIPE)
    files = write_files(quantized, batches, folder)
    example = batches[0][:1]
    rows: list[latency.Row] = []
    for key in latency.RUNTIMES:
        paths = {who: path for (who, target), path in files.items() if target in (key, None)}
        run = eager(module, example)
        times, kernels = latency.timed(key, paths, run, example.numpy(), options, name)
        candidates = sum(layer.integer for layer in quantized.placement.layers)
        for row in latency.compared(times):
            int8_ops = kernels.get(row["contender"])
            rows.append({"model": name, "runtime": key, **row, "int8_ops": int8_ops})
            print(latency.line(rows[-1], candidates), flush=True)
    return rows


def made_up(side: int) -> list[torch.Tensor]:
    """Batches of images in [0, 1] whose neighbouring pixels are alike."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCHES * BATCH, 3, side // 16, side // 16, generator=generator)
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    noisy = smooth + 0.1 * torch.randn(smooth.shape, generator=generator)
    return list(torch.split(noisy.clamp(0, 1), BATCH))


@torch.no_grad()
def prepared(name: str, side: int, batches: list[torch.Tensor]) -> nn.Module:
    """The detector with random weights, and batch norms that normalize these images."""
    torch.manual_seed(0)
    if not hasattr(detection, name):
        module = models.build(name).eval()
    else:
        sizes = {"min_size": side, "max_size": side} if name.startswith("retinanet") else {}
        module = getattr(detection, name)(weights=None, weights_backbone=None, **sizes).eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
            part.momentum = None  # a plain average over the batches
            part.train()
    for batch in batches:
        module(list(batch))
    return module.eval()


def write_files(
    quantized: Simulation, batches: list[torch.Tensor], folder: Path
) -> dict[tuple[str, str | None], Path]:
    """(contender, the runtime that it is for or `None` for both) → file."""
    shown = batches[0]
    files: dict[tuple[str, str | None], Path] = {(latency.ONNX, None): folder / "float.onnx"}
    plain = files[latency.ONNX, None]
    onnx.export_float(quantized, plain, (list(shown),), postprocess=False)
    for target in latency.RUNTIMES:
        files["w8a8", target] = folder / f"w8a8.{target}.onnx"
        subbyte.export(quantized, files["w8a8", target], shown, target=target, postprocess=False)
    singles = [image[None].numpy() for batch in batches for image in batch]
    for contender, path in rivals.write(folder, plain, singles, transformer=False).items():
        files[contender, None] = path
    return files


def eager(module: Any, example: torch.Tensor) -> Callable[[], Any]:
    """The network in PyTorch, backbone and heads, without normalization."""
    network = module.raw if hasattr(module, "raw") else OneStage(module)

    @torch.inference_mode()
    def run() -> Any:
        return network(example)

    return run


if __name__ == "__main__":
    main()
