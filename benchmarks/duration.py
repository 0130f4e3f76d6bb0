"""Seconds that W8A8 of a model takes, here and in NNCF, side by side.

    uv run --group benchmarks python benchmarks/duration.py --images 512 --rounds 3

ResNet-50 with random weights and made-up images of 224 × 224 that lie in memory, 2 threads. Ours:
`subbyte.quantize` with the default recipe, from the PyTorch model. NNCF: `nncf.quantize` with its
defaults and as many images, from the PyTorch model and from its ONNX file. They take turns, each in
a process of its own, and imports are not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import onnx
import rivals
import torch

import subbyte
from subbyte import api, models
from subbyte.targets.onnx import export as writer

CONTENDERS = ("subbyte", "nncf-torch", "nncf-onnx")
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS)
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        torch.set_num_threads(options.threads)
        print(seconds(options.only, options.model, options.images))
        return
    rivals.check()
    times: dict[str, list[float]] = {name: [] for name in options.contenders}
    for i in range(options.rounds):
        for name in options.contenders[i % len(times) :] + options.contenders[: i % len(times)]:
            command = [sys.executable, *sys.argv, "--only", name]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            times[name].append(float(run.stdout.split()[-1]))
            print(f"round {i + 1}: {name} {times[name][-1]:.1f} s", flush=True)
    for name, found in times.items():
        ratios = [ours / other for ours, other in zip(times["subbyte"], found, strict=True)]
        print(
            f"{name}: median {median(found):.1f} s, ours {median(ratios):.2f} of it "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def seconds(contender: str, model: str, images: int) -> float:
    """What one quantization takes, model and images being there already."""
    torch.manual_seed(0)
    module = models.build(model).eval()
    batches = [torch.randn(BATCH, 3, 224, 224) for _ in range(images // BATCH)]
    if contender == "subbyte":
        started = time.perf_counter()
        subbyte.quantize(module, batches)
        return time.perf_counter() - started
    import nncf

    if contender == "nncf-torch":
        data = nncf.Dataset(batches)
        started = time.perf_counter()
        nncf.quantize(module, data, subset_size=len(batches))
        return time.perf_counter() - started
    shown = (batches[0],)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        writer.export_float(api.unquantized(api.capture(module, shown)), path, shown)
        proto = onnx.load(str(path))
    data = nncf.Dataset([{"input": batch.numpy()} for batch in batches])
    started = time.perf_counter()
    nncf.quantize(proto, data, subset_size=len(batches))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
