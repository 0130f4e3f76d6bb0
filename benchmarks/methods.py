"""Accuracy and processor seconds of `subbyte` and others on ResNet-20, against a plain QDrop.

    uv run python benchmarks/methods.py [--bits w2a2 …] [--seeds 2 3 4] [--json FILE]

ResNet-20 for CIFAR-10 with its published weights and all test images, from $SUBBYTE_DATA; one
thread. A seed draws the 1,024 calibration images and is the recipe's. The yardstick is the plain
loop of QDrop's arithmetic (`learning.plain`) over all blocks, 2,000 steps each, run once at the
first bits; with fewer `--steps` its learning is scaled up in proportion. Accuracy is that of the
simulation; `seconds` is a method's whole call. Results are added to the JSON file as they come, and
what is in it is not run again. With `--rounds 3` the yardstick and each method at the first bits
take turns, so that what disturbs one disturbs the other, and the ratios of their seconds are
printed; nothing else should run then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from learning import CPU, SETTINGS, activations_of, plain, simulations_of

import subbyte
from subbyte.app import experiment
from subbyte.app.arguments import recipe_of
from subbyte.app.setup import Setup, set_up
from subbyte.data.batches import ArgumentsOf
from subbyte.methods.common.activation_cache import Values, recorded, run
from subbyte.methods.common.simulated_blocks import blocks_of, float_part
from subbyte.methods.common.store import Store
from subbyte.methods.reconstruction.learn import TrainingData
from subbyte.utils.progress import Silent

EXPERIMENT = Path(__file__).parent / "cifar10_resnet20.yaml"
IMAGES = 1024
METHODS = ["bias_correction", "{name: subbyte, steps: 0}", "subbyte"]
BITS = ["w4a4", "w3a3", "w2a4", "w2a2"]
STEPS = 2000  # of the yardstick, a block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", nargs="+", default=BITS)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="a recipe's method, in YAML")
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the yardstick; 0: none")
    parser.add_argument("--rounds", type=int, default=0, help="in which they take turns for time")
    parser.add_argument("--json", type=Path, default=Path("methods.json"))
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    if "SUBBYTE_DATA" not in os.environ:
        sys.exit("SUBBYTE_DATA is not set: it names the folder of real data")
    torch.set_num_threads(1)
    setup = opened(options.seeds[0])
    if options.rounds:
        in_turns(setup, options)
        return
    module, accuracy = setup.module, judge(setup)

    def known(key: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        if key not in found:
            found[key] = make()
            options.json.write_text(json.dumps(found, indent=2))
            print(key, found[key], flush=True)
        row: dict[str, float] = found[key]
        return row

    known("float", lambda: {"top1": accuracy(module)})
    if options.steps:
        known("yardstick", partial(yardstick, setup, options.bits[0], options.steps, accuracy))
    for seed in options.seeds:
        images: list[torch.Tensor] = []
        for bits in options.bits:
            for method in options.methods:
                key = f"{bits} | {method} | {seed}"
                if key not in found and not images:
                    images = [batch["inputs"] for batch in opened(seed).task.data.calibration]
                known(key, partial(quantized, module, bits, method, seed, images, accuracy))
    report(found, options)


def opened(seed: int) -> Setup:
    """The model and the images, of which a seed draws those that calibrate."""
    root = Path(os.environ["SUBBYTE_DATA"]) / "cifar10"
    settings = [
        "runtimes=[]",
        f"seed={seed}",
        f"data.calibration={root / 'train'}",
        f"data.evaluation={root / 'test'}",
        f"data.calibration_images={IMAGES}",
        f"model.checkpoint={root / 'resnet20-12fca82f.th'}",
    ]
    return set_up(experiment.load(str(EXPERIMENT), settings), (), Silent())


def judge(setup: Setup) -> Callable[[torch.nn.Module], float]:
    """A function that gives a model's top-1 accuracy on all test images, decoded once."""
    batches = list(setup.task.data.evaluation)

    @torch.no_grad()
    def accuracy(model: torch.nn.Module) -> float:
        hits = [model(b["inputs"]).argmax(1) == b["targets"] for b in batches]
        return round(float(torch.cat(hits).double().mean()), 4)

    return accuracy


def quantized(
    module: torch.nn.Module,
    bits: str,
    method: str,
    seed: int,
    images: list[torch.Tensor],
    accuracy: Callable[[torch.nn.Module], float],
) -> dict[str, float]:
    """A method's accuracy and its processor seconds."""
    base = recipe_of(bits, [], seed=seed)
    recipe = subbyte.Recipe(**base.model_dump() | {"method": yaml.safe_load(method)})
    started = time.process_time()
    model = subbyte.quantize(module, images, recipe)
    seconds = time.process_time() - started
    return {"top1": accuracy(model), "seconds": round(seconds, 1)}


def yardstick(
    setup: Setup, bits: str, steps: int, accuracy: Callable[[torch.nn.Module], float]
) -> dict[str, float]:
    """The plain loop over all blocks in turn: accuracy, and processor seconds of 2,000 steps."""
    batches = ArgumentsOf([batch["inputs"] for batch in setup.task.data.calibration], CPU)
    began = time.process_time()
    _, simulation = simulations_of(setup.module, batches, bits)
    settings = replace(SETTINGS["qdrop"], steps=steps)
    store = Store(2**33, CPU)
    values = recorded(simulation.float_model, None, "", batches, store)
    learning = 0.0
    for i, block in enumerate(blocks_of(simulation, "")):
        inputs = [values[node.name] for node in block.inputs]
        exact = run(float_part(simulation, block), [value.exact for value in inputs], store)
        activations = activations_of(simulation, block)
        generator = torch.Generator().manual_seed(i)
        started = time.process_time()
        with torch.enable_grad():
            data = TrainingData(inputs, exact)
            plain(simulation, block, data, activations, settings, generator)
        learning += time.process_time() - started
        quantized = run(block.module, [value.quantized for value in inputs], store)
        names = [node.name for node in block.outputs]
        values |= {n: Values(a, b) for n, a, b in zip(names, exact, quantized, strict=True)}
    seconds = time.process_time() - began + learning * (STEPS / steps - 1)
    return {"top1": accuracy(simulation), "seconds": round(seconds, 1), "steps": steps}


def in_turns(setup: Setup, options: argparse.Namespace) -> None:
    """Print what share of the yardstick's time methods take, in rounds of all of them."""
    seed, bits = options.seeds[0], options.bits[0]
    images = [batch["inputs"] for batch in setup.task.data.calibration]
    shares: dict[str, list[float]] = {method: [] for method in options.methods}
    for i in range(options.rounds):
        base = yardstick(setup, bits, options.steps, lambda _: 0.0)["seconds"]
        for method, found in shares.items():
            row = quantized(setup.module, bits, method, seed, images, lambda _: 0.0)
            found.append(base / row["seconds"])
            print(
                f"round {i + 1}: yardstick {base:.0f} s, {method} {row['seconds']:.0f} s, ", end=""
            )
            print(f"1/{found[-1]:.1f}", flush=True)
    for method, found in shares.items():
        print(f"{bits} {method}: 1/{statistics.median(found):.1f} of the yardstick's time ", end="")
        print(f"(1/{min(found):.1f} to 1/{max(found):.1f})")


def report(found: dict[str, Any], options: argparse.Namespace) -> None:
    """A table: mean and extremes over the seeds, and the share of the yardstick's time."""
    base = found.get("yardstick", {}).get("seconds")
    print(f"\nfloat {100 * found['float']['top1']:.2f} %; ", end="")
    print(f"yardstick {found['yardstick']}" if base else "no yardstick")
    print("\n| bits | method | top-1 %, mean (least to most) | s | of the yardstick |")
    print("|---|---|---:|---:|---:|")
    for bits in options.bits:
        for method in options.methods:
            rows = [found[f"{bits} | {method} | {seed}"] for seed in options.seeds]
            tops = [100 * row["top1"] for row in rows]
            seconds = statistics.mean(row["seconds"] for row in rows)
            share = f"1/{base / seconds:.1f}" if base else "–"
            print(
                f"| {bits} | `{method}` | {statistics.mean(tops):.2f} ({min(tops):.2f} to "
                f"{max(tops):.2f}) | {seconds:.0f} | {share} |"
            )


if __name__ == "__main__":
    main()
