"""Files of one target beside their simulation, at W8A8, W4A8 and W4A4 by ranges alone.

    uv run python benchmarks/targets.py executorch --json targets.json
    uv run python benchmarks/targets.py executorch --json targets.json --only resnet18 vit_b_16
    uv run python benchmarks/targets.py executorch --json t.json --docs docs/targets/executorch.md

Each model is quantized for the target, written and run, in a process of its own, on 8 images with 8
others for calibration; its weights and images are those of benchmarks/models.py, but digits has
its own. A detector is compared by its raw outputs. What is written: how far the file's outputs are
from the simulation's, in dB; how far those of the simulation are from themselves, if all that its
quantizers get is off by a millionth; and how many layers run with integer kernels, of those that
are quantized and of all. Results are kept in the JSON file as they come.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collecting import Row, collect, put_into
from torch import nn
from torch.utils import _pytree as pytree
from untrained import as_if_trained, nudged, pictures

import subbyte
from models import BATCH, prepared
from subbyte import models
from subbyte.data.digits import digits_split
from subbyte.data.preprocessing import Preprocessing
from subbyte.placement.simulation import Simulation
from subbyte.targets import about, base, names
from subbyte.targets.onnx.program import deployed_as

NAMES = """
    digits resnet18 mobilenet_v2 mobilenet_v3_large efficientnet_b0 googlenet densenet121 vit_b_16
    ssdlite320_mobilenet_v3_large
"""
DETECTORS = ("ssdlite320_mobilenet_v3_large",)
RECIPES = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
IMAGES = 8  # to calibrate with, and as many others to compare
SIDE = 320  # of a detector's images
Outputs = list[np.ndarray]


def main() -> None:
    """Measure what is missing in the JSON file, one model a process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=names())
    parser.add_argument("--json", type=Path, required=True, help="where results are kept")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models, anew")
    parser.add_argument("--bits", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--docs", type=Path, help="the file whose table is to be replaced")
    parser.add_argument("--runtime", help="what runs the files, if not the target itself")
    parser.add_argument("--images", type=int, default=IMAGES, help="of calibration and evaluation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(options.threads)
        options.json.write_text(json.dumps(measure(options)))
        return
    more = [options.target, "--threads", str(options.threads), "--bits", *options.bits]
    more += ["--images", str(options.images), "--runtime", options.runtime or options.target]
    rows = collect(__file__, options.json, NAMES.split(), options.only, more, table_rows)
    if options.docs is not None:
        put_into(
            options.docs, f"<!-- made by benchmarks/targets.py {options.target} -->", table(rows)
        )
    print(table(rows))


def measure(options: argparse.Namespace) -> Row:
    """The row of one model; under "failed" what went wrong, and where."""
    row: Row = {}
    stage = "building"
    try:
        module, calibration, images = model_and_images(options.one)
        images, first = images[: options.images], -(-options.images // BATCH)
        for stage in options.bits:
            weights, activations = RECIPES[stage]
            recipe = subbyte.Recipe(
                weights=weights, activations=activations, method="range", target=options.target
            )
            row[stage] = measured(module, calibration[:first], images, recipe, options.runtime)
    except Exception as fault:
        row["failed"] = f"{stage}: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
    return row


def measured(
    module: nn.Module,
    calibration: list[Any],
    images: torch.Tensor,
    recipe: subbyte.Recipe,
    runtime: str,
) -> Row:
    """One recipe of a model: quantized, written, run and compared."""
    target = str(recipe.target)
    quantized = subbyte.quantize(module, calibration, recipe)
    layers = quantized.placement.layers
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{about(target).suffix}"
        notes = subbyte.export(quantized, path, images[:2], target=target, postprocess=False)
        seconds = time.perf_counter() - started
        session = base.runtime(runtime).load(path, 1)
        found = outputs_of(lambda x: session.run(x.numpy()), images)
        kernels, size = session.int8_ops(), path.stat().st_size
    expected = outputs_of(simulated(quantized, images[:2]), images)
    with nudged(quantized):
        other = outputs_of(simulated(quantized, images[:2]), images)
    return {
        "db": decibels(expected, found),
        "nudged_db": decibels(expected, other),
        "int8_ops": kernels,
        "integer": sum(layer.integer for layer in layers),
        "layers": len(layers),
        "bytes": size,
        "seconds": round(seconds, 1),
        "notes": list(notes),
    }


def simulated(quantized: Simulation, example: torch.Tensor) -> Callable[[torch.Tensor], Outputs]:
    """What a file of the model computes, in PyTorch: of a detector the raw outputs."""
    deployed = deployed_as(quantized, quantized.model, (example,), postprocess=False)

    @torch.no_grad()
    def run(x: torch.Tensor) -> Outputs:
        return [leaf.numpy() for leaf in pytree.tree_leaves(deployed.module(x))]

    return run


def outputs_of(run: Callable[[torch.Tensor], Outputs], images: torch.Tensor) -> Outputs:
    """All outputs for all images."""
    parts = [run(batch) for batch in torch.split(images, BATCH)]
    return [np.concatenate(own) for own in zip(*parts, strict=True)]


def decibels(expected: Outputs, found: Outputs) -> list[float]:
    """Of each output, its energy less its mean's over images, over that of the error, in dB."""
    pairs = zip(expected, found, strict=True)
    return [ratio(a.astype(np.float64), b.astype(np.float64)) for a, b in pairs]


def ratio(expected: np.ndarray, found: np.ndarray) -> float:
    signal = np.square(expected - expected.mean(0)).sum()
    return float(10 * np.log10(signal / max(np.square(expected - found).sum(), 1e-30 * signal)))


def model_and_images(name: str) -> tuple[nn.Module, list[Any], torch.Tensor]:
    """A model, its calibration batches and its evaluation images."""
    if name == "digits":
        module = models.load(models.ModelConfig(name=name)).module
        halves = digits_split()
        first, second = (
            torch.from_numpy(half[:IMAGES])[:, None].float() / 255 for half in halves[::2]
        )
        return module, [first], second
    if name not in DETECTORS:
        module, calibration, images = prepared(name, None)
        return module, list(torch.split(calibration[:IMAGES], BATCH)), images[:IMAGES]
    module = models.load(models.ModelConfig(name=name)).module
    plain = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    drawn = torch.split(pictures(3 * IMAGES, SIDE, plain), IMAGES)
    training, calibration, images = drawn
    as_if_trained(module, list(training))
    return module, [list(batch) for batch in torch.split(calibration, BATCH)], images


def table(rows: dict[str, Row]) -> str:
    """The table of the target's page."""
    head = [
        "| Model | Bits | File against simulation, dB | Nudged, dB "
        "| int8 kernels / quantized / layers | Size, MB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *(table_rows(name, row) for name, row in rows.items())])


def table_rows(name: str, row: Row) -> str:
    """One model's rows."""
    if "failed" in row:
        return f"| `{name}` | failed: {row['failed']} | | | | |"
    lines = []
    for bits, found in row.items():
        near, nudge = (" / ".join(f"{x:.0f}" for x in found[key]) for key in ("db", "nudged_db"))
        kernels = f"{found['int8_ops']} / {found['integer']} / {found['layers']}"
        lines.append(
            f"| `{name}` | {bits} | {near} | {nudge} | {kernels} | {found['bytes'] / 1e6:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
