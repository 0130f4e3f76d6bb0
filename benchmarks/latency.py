"""Latency of int8 models: ours, those of two other tools, and float, interleaved in one run.

    uv run --group benchmarks python benchmarks/latency.py --json latency.json

For each model: PyTorch eager in float; the float ONNX file; ours at W8A8 and W4A4, each runtime
with its own file; and what `onnxruntime.quantization.quantize_static` (QDQ, per channel) and
`nncf.quantize` make of the same float file (for transformers also with `ModelType.TRANSFORMER`).
All are calibrated on the same made-up images. Weights are random; the statistics of batch norms
are those of the images, so that no layer's values vanish or explode. In each round every contender
runs twice, in an order that changes from round to round, and the second time counts: the first one
brings its memory back into the caches. All files are loaded anew several times, because where a
session's memory happens to lie moves its time by more than the rounds differ. A ratio is the median
over a load's rounds of those of one round; printed are the medians over the loads with 95 %
intervals (bootstrap over loads and their rounds), and geometric means over the models.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import torch
from torch import nn

import subbyte
from subbyte import api, models
from subbyte.targets import base as verify
from subbyte.targets.onnx import export as onnx
from subbyte.utils import machine
from subbyte.utils.bars import Bars
from subbyte.utils.files import atomic

MODELS = [
    *("resnet18", "resnet50", "mobilenet_v2"),
    *("mobilenet_v3_large", "efficientnet_b0", "vit_b_16"),
]
RUNTIMES = ("onnxruntime", "openvino")
OURS = {"w8a8": 8, "w4a4": 4}
EAGER, ONNX = "PyTorch eager", "float"
BATCH, BATCHES = 8, 2  # of made-up images
REST = 0.003  # seconds before each turn, for threads that still wait for work to go to sleep

Row = dict[str, Any]
Times = dict[str, np.ndarray]


def main() -> None:
    """Measure one model after the other, and print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--loads", type=int, default=8, help="how often all files are loaded")
    parser.add_argument("--rounds", type=int, default=20, help="of each load")
    parser.add_argument("--json", type=Path, help="where the rows are to be written too")
    options = parser.parse_args()
    rivals.check()
    torch.set_num_threads(options.threads)
    print(f"batch {options.batch}, {options.threads} threads", flush=True)
    rows: list[Row] = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), options)
        if options.json is not None:
            write(options.json, rows, options)
        gc.collect()
    for line in means(rows):
        print(line)


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Row]:
    """The rows of one model: one for each contender in each runtime."""
    images = made_up(options.size)
    module = prepared(name, images)
    files, candidates = write_files(module, images, folder)
    example = images[0][:1].repeat(options.batch, 1, 1, 1)
    rows: list[Row] = []
    for key in RUNTIMES:
        paths = {who: path for (who, target), path in files.items() if target in (key, None)}
        times, kernels = timed(key, paths, eager(module, example), example.numpy(), options, name)
        found = [
            {"model": name, "runtime": key, **row, "int8_ops": kernels.get(row["contender"])}
            for row in compared(times)
        ]
        for row in found:
            print(line(row, candidates), flush=True)
        rows += found
    return rows


def timed(
    key: str,
    paths: dict[str, Path],
    eager_run: Callable[[], Any],
    example: np.ndarray,
    options: argparse.Namespace,
    name: str,
) -> tuple[Times, dict[str, int]]:
    """Seconds of each contender in a runtime, (loads, rounds); and its int8 kernels."""
    loads: list[Times] = []
    kernels: dict[str, int] = {}
    order = np.random.default_rng(0)
    for i in Bars().track(range(options.loads), f"{name}, {key}"):
        sessions = {
            who: verify.runtime(key).load(paths[who], options.threads)
            for who in map(str, order.permutation(list(paths)))
        }
        runs = {EAGER: eager_run} | {who: deployed(s, example) for who, s in sessions.items()}
        loads.append(interleaved(runs, options.rounds, seed=i))
        kernels = kernels or {who: session.int8_ops() for who, session in sessions.items()}
        del sessions, runs
    return {who: np.stack([load[who] for load in loads]) for who in (EAGER, *paths)}, kernels


def made_up(size: int) -> list[torch.Tensor]:
    """Batches of images whose neighbouring pixels are alike, standardized as photographs are."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(BATCHES):
        coarse = torch.randn(BATCH, 3, size // 16, size // 16, generator=generator)
        smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear")
        batches.append(smooth + 0.3 * torch.randn(smooth.shape, generator=generator))
    return batches


def prepared(name: str, images: Iterable[torch.Tensor]) -> nn.Module:
    """The model with random weights, and with batch norms that normalize these images."""
    torch.manual_seed(0)
    module = models.build(name).eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.reset_running_stats()
            part.momentum = None  # a plain average over the batches
            part.train()  # it alone: dropout and stochastic depth stay off
    with torch.no_grad():
        for batch in images:
            module(batch)
    return module.eval()


def write_files(
    module: nn.Module, images: list[torch.Tensor], folder: Path
) -> tuple[dict[tuple[str, str | None], Path], int]:
    """(contender, the runtime that it is for or `None` for both) → file; how many could be int8."""
    shown = (images[0][:2],)
    files: dict[tuple[str, str | None], Path] = {(ONNX, None): folder / "float.onnx"}
    onnx.export_float(api.unquantized(api.capture(module, shown)), files[ONNX, None], shown)
    candidates = 0
    for contender, bits in OURS.items():
        recipe = subbyte.Recipe(weights=bits, activations=bits, ranges="minmax", method="range")
        quantized = subbyte.quantize(module, images, recipe)
        candidates = sum(layer.integer for layer in quantized.placement.layers)
        for target in RUNTIMES:
            files[contender, target] = folder / f"{contender}.{target}.onnx"
            subbyte.export(quantized, files[contender, target], shown[0], target=target)
    transformer = any(isinstance(part, nn.MultiheadAttention) for part in module.modules())
    singles = [image[None].numpy() for batch in images for image in batch]
    for contender, path in rivals.write(folder, files[ONNX, None], singles, transformer).items():
        files[contender, None] = path
    return files, candidates


def eager(module: nn.Module, example: torch.Tensor) -> Callable[[], Any]:
    """A run in PyTorch."""

    @torch.inference_mode()
    def run() -> Any:
        return module(example)

    return run


def deployed(session: verify.Session, example: np.ndarray) -> Callable[[], Any]:
    """A run of a loaded file."""
    return lambda: session.run(example)


def interleaved(runs: dict[str, Callable[[], Any]], rounds: int, seed: int) -> Times:
    """Seconds of each run, all taking turns in an order that changes each round."""
    times = {name: np.zeros(rounds) for name in runs}
    order = np.random.default_rng(seed)
    for run in runs.values():
        for _ in range(3):
            run()
    for i in range(rounds):
        for name in order.permutation(list(runs)):
            time.sleep(REST)
            runs[name]()
            started = time.perf_counter()
            runs[name]()
            times[name][i] = time.perf_counter() - started
    return times


def compared(times: Times) -> list[Row]:
    """One row a contender: its time, and its ratios to float, to the rivals and to our W8A8.

    Of the rivals the one with the smallest median counts.
    """
    others = [name for name in times if name in rivals.NAMES]
    fastest = min(others, key=lambda name: float(np.median(times[name])))
    rows = []
    for name, values in times.items():
        row: Row = {"contender": name, "ms": 1000 * float(np.median(values))}
        row["to_float"] = ratio(values, times[ONNX])
        if name in OURS:
            row |= {"fastest_rival": fastest, "to_rival": ratio(values, times[fastest])}
        if name == "w4a4":
            row["to_w8a8"] = ratio(values, times["w8a8"])
        rows.append(row)
    return rows


def ratio(values: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Median over loads of the medians of paired ratios, and the ends of its 95 % interval.

    values, reference: (loads, rounds). Bootstrap: loads are drawn, and of each of them rounds.
    """
    ratios = values / reference
    loads, rounds = ratios.shape
    generator = np.random.default_rng(0)
    drawn = ratios[
        generator.integers(0, loads, (2000, loads, 1)),
        generator.integers(0, rounds, (2000, loads, rounds)),
    ]
    low, high = np.percentile(np.median(np.median(drawn, axis=2), axis=1), (2.5, 97.5))
    return float(np.median(np.median(ratios, axis=1))), float(low), float(high)


def line(row: Row, candidates: int) -> str:
    """A row as it is printed."""
    parts = [f"{row['model']:18} {row['runtime']:11} {row['contender']:16} {row['ms']:8.2f} ms"]
    parts.append(f"{said(row['to_float'])} of float")
    parts.append("" if row["int8_ops"] is None else f"int8 {row['int8_ops']} of {candidates}")
    if "to_rival" in row:
        parts.append(f"{said(row['to_rival'])} of {row['fastest_rival']}")
    if "to_w8a8" in row:
        parts.append(f"{said(row['to_w8a8'])} of w8a8")
    return "  ".join(parts).rstrip()


def said(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def means(rows: list[Row]) -> list[str]:
    """Geometric means over the models, for each of our variants in each runtime."""
    lines = []
    for runtime, contender in itertools.product(RUNTIMES, OURS):
        ours = [row for row in rows if (row["runtime"], row["contender"]) == (runtime, contender)]
        for key, other in (
            ("to_float", "float"),
            ("to_rival", "fastest rival"),
            ("to_w8a8", "w8a8"),
        ):
            ratios = [row[key][0] for row in ours if key in row]
            if ratios:
                mean = float(np.exp(np.mean(np.log(ratios))))
                name = f"{runtime:11} {contender} of {other}"
                lines.append(f"geometric mean over {len(ratios)} models: {name} {mean:.3f}")
    return lines


def write(path: Path, rows: list[Row], options: argparse.Namespace) -> None:
    """All rows so far, with what they were measured on."""
    settings = {
        key: getattr(options, key) for key in ("size", "batch", "threads", "loads", "rounds")
    }
    content = {**settings, "machine": machine.describe(), "rows": rows, "means": means(rows)}
    with atomic(path) as part:
        part.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
