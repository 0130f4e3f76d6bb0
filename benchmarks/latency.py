"""Latency of int8 models against their own float models, side by side in one run, interleaved.

    uv run python benchmarks/latency.py resnet18 --rounds 200

Random weights; for each runtime the models take turns, run by run, so that a busy machine slows
all of them alike. Printed: median ms, and the median of the paired ratios with its 95 % interval
(bootstrap over rounds).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import subbyte
from subbyte import api, models
from subbyte.report.bars import Bars
from subbyte.runtime import onnx, verify

FLOAT = subbyte.Recipe(weights=None, activations=None, first_last=None)
VARIANTS = {"w8a8": (8, 8), "w4a4": (4, 4)}


def main() -> None:
    """Parse, export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    print(f"batch {options.batch}, {options.threads} threads, {options.rounds} rounds")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), options)


def measure(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Export one model in float and in each variant, and time them against each other."""
    generator = torch.Generator().manual_seed(0)
    shape = (8, 3, options.size, options.size)
    calibration = [torch.randn(shape, generator=generator)]
    example = np.random.default_rng(0).standard_normal((options.batch, *shape[1:]))
    module = models.build(name)
    onnx.export_float(
        api.prepare(module, (calibration[0],), FLOAT), folder / "float.onnx", (calibration[0],)
    )
    candidates = {"float": 0}
    for variant, (weights, activations) in VARIANTS.items():
        recipe = subbyte.Recipe(weights=weights, activations=activations, ranges="minmax")
        quantized = subbyte.quantize(module, calibration, recipe)
        candidates[variant] = sum(layer.integer for layer in quantized.layers)
        subbyte.export(quantized, folder / f"{variant}.onnx", calibration[0])
    for runtime_name in ("onnxruntime", "openvino"):
        runtime = verify.runtime(runtime_name)
        sessions = {v: runtime.load(folder / f"{v}.onnx", options.threads) for v in candidates}
        times = interleaved(sessions, example.astype(np.float32), options.rounds)
        for variant, values in times.items():
            low, middle, high = ratio(values, times["float"])
            integers = runtime.int8_ops(folder / f"{variant}.onnx")
            print(
                f"{name:20} {runtime_name:12} {variant:6} {1000 * np.median(values):8.2f} ms   "
                f"{middle:.3f} of float ({low:.3f} to {high:.3f})   "
                f"int8 {integers} of {candidates[variant]}"
            )


def interleaved(
    sessions: dict[str, verify.Session], example: np.ndarray, rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of each run, the models taking turns in an order that changes each round."""
    times = {name: np.zeros(rounds) for name in sessions}
    order = np.random.default_rng(0)
    for session in sessions.values():
        for _ in range(10):
            session.run(example)
    for i in Bars().track(range(rounds), "timing"):
        for name in order.permutation(list(sessions)):
            started = time.perf_counter()
            sessions[name].run(example)
            times[name][i] = time.perf_counter() - started
    return times


def ratio(values: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Median of the paired ratios between the ends of its 95 % bootstrap interval."""
    ratios = values / reference
    draws = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return float(low), float(np.median(ratios)), float(high)


if __name__ == "__main__":
    main()
