"""What each method takes on a network: seconds a block against its multiply-adds, peak memory.

    uv run python benchmarks/blocks.py resnet18 --images 64 --steps 100

Random weights and made-up images of 224 × 224 by default; each method runs in a process of its own.
Seconds of learning are linear in steps: those of a thousand are printed. Multiply-adds are of one
image, forward. Of `subbyte`, with its own number of steps, the seconds of each layer are printed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import subbyte
from subbyte import models
from subbyte.graph.blocks import find_blocks
from subbyte.methods import method
from subbyte.placement.simulation import Simulation
from subbyte.recipe import method_names

BATCH = 16
IN_LAYERS = "subbyte"  # which says how it went with layers, not with blocks


def main() -> None:
    """Run each method in a process of its own and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name, such as resnet18")
    parser.add_argument("--methods", nargs="+", default=method_names()[1:])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=100, help="of methods that learn")
    parser.add_argument("--evaluations", type=int, default=100, help="of lapq")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.methods[0], options)))
        return
    rows = [_apart(name, options) for name in options.methods]
    print("| method | seconds | peak memory, MB |\n|---|---:|---:|")
    for row in rows:
        print(f"| `{row['method']}` | {row['seconds']:.0f} | {row['peak']:.0f} |")
    for row in rows:
        if row["method"] == IN_LAYERS:
            print(f"\n`{row['method']}`\n\n| layer | seconds |\n|---|---:|")
            for name, seconds in row["blocks"]:
                print(f"| {name} | {seconds:.1f} |")
        elif row["blocks"]:
            print(f"\n`{row['method']}`, seconds of 1,000 steps\n")
            print("| block | million multiply-adds | seconds | per 100 million |")
            print("|---|---:|---:|---:|")
            for name, adds, seconds in row["blocks"]:
                spent = 1000 * seconds / options.steps
                print(f"| {name} | {adds:.1f} | {spent:.0f} | {100 * spent / adds:.0f} |")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Quantize to W4A4 by one method."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = models.build(options.model).eval()
    batches = list(torch.randn(options.images, 3, options.size, options.size).split(BATCH))
    choice: dict[str, Any] = {"name": name}
    known = method(name).Options.model_fields
    for option, value in (("steps", options.steps), ("max_evaluations", options.evaluations)):
        if option in known and name != IN_LAYERS:
            choice[option] = value
    if "activation_steps" in known:
        choice["activation_steps"] = max(1, options.steps // 2)
    started = time.perf_counter()
    recipe = subbyte.Recipe(weights=4, activations=4, method=choice)
    quantized = subbyte.quantize(model, batches, recipe)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    notes: list[dict[str, Any]] = quantized.reported.get("blocks", [])
    blocks: list[Any] = [(note["block"], note["seconds"]) for note in notes]
    if notes and name != IN_LAYERS:
        blocks = _blocks(quantized, notes, batches[0][:1])
    return {"method": name, "seconds": seconds, "peak": peak, "blocks": blocks}


def _blocks(
    quantized: Simulation, notes: list[dict[str, Any]], image: torch.Tensor
) -> list[tuple[str, float, float]]:
    """Of each block that was learned: its name, million multiply-adds, seconds of all rounds."""
    found = []
    region = quantized.region("")
    (placeholder,) = [node for node in region.graph.nodes if node.op == "placeholder"]
    values: dict[Any, Any] = {placeholder: image}
    layers = {layer.node: layer.name for layer in quantized.placement.layers if not layer.reason}
    for block in find_blocks(region, "", layers):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            outputs = block.module(*[values[node] for node in block.inputs])
        values.update(zip(block.outputs, outputs, strict=True))
        seconds = sum(note["seconds"] for note in notes if note["block"] == block.name)
        found.append((block.name, counter.get_total_flops() / 2e6, seconds))
    return found


def _apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, options.model, "--one", "--methods", name]
    for key in ("images", "size", "steps", "evaluations", "threads"):
        command += [f"--{key}", str(getattr(options, key))]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return row


if __name__ == "__main__":
    main()
