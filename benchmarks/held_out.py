"""Recipes side by side on calibration images held out from the calibration: for choosing defaults.

    uv run python benchmarks/held_out.py EXPERIMENT.yaml --set KEY=VALUE --images 512 \\
        --bits w8a8 w4a4 --recipes '{}' '{ranges: lp}' '{method: range}'

Model, calibration images and seed are the experiment's. The first `--images` of them, in the order
of the seed, calibrate; the others are evaluated in simulation and compared with the float model,
for which no labels are needed: the evaluation images stay untouched. Prints a Markdown table, with
top-1 where the calibration images lie in folders of their classes.
"""

from __future__ import annotations

import argparse
import sys
import time

import ranges
import torch
import yaml

import subbyte
from subbyte.app import arguments, experiment
from subbyte.app.setup import Setup, set_up
from subbyte.errors import SubbyteError
from subbyte.tasks.metrics import classification as task
from subbyte.utils.bars import Bars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a YAML file or a built-in experiment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--images", type=int, default=512, help="that calibrate; the others judge")
    parser.add_argument("--bits", nargs="+", default=["w8a8"], help="such as w4a8")
    parser.add_argument("--recipes", nargs="+", default=["{}"], help="fields of a recipe, in YAML")
    options = parser.parse_args()
    try:
        loaded = experiment.load(options.experiment, [*options.settings, "runtimes=[]"])
        compare(set_up(loaded, (), Bars()), options)
    except SubbyteError as error:
        sys.exit(str(error))


def compare(setup: Setup, options: argparse.Namespace) -> None:
    """Print a row for each recipe at each pair of bits."""
    batches = list(setup.task.data.calibration)
    inputs = torch.cat([batch["inputs"] for batch in batches])
    targets = [batch["targets"] for batch in batches if "targets" in batch]
    labels = torch.cat(targets) if targets else torch.zeros(len(inputs), dtype=torch.int64)
    size = setup.experiment.batch_size
    calibration = list(torch.split(inputs[: options.images], size))
    held_out = [
        {"inputs": images, "targets": its}
        for images, its in zip(
            torch.split(inputs[options.images :], size),
            torch.split(labels[options.images :], size),
            strict=True,
        )
    ]
    if not held_out:
        raise SubbyteError(f"no image is left of {len(inputs)}: give fewer than that as --images")
    reference = ranges.outputs(setup.module, held_out, setup, Bars(), "float")
    print(f"{options.images} images calibrate, {reference.images} others judge; seed ", end="")
    print(setup.experiment.seed, end="")
    print(f"; float {top1(reference)} %" if targets else "")
    print("\n| | recipe | top-1 % | agreement with float % | SQNR dB | s |")
    print("|---|---|---:|---:|---:|---:|")
    for bits in options.bits:
        for text in options.recipes:
            recipe = recipe_of(bits, text)
            started = time.perf_counter()
            quantized = subbyte.quantize(setup.module, calibration, recipe, progress=Bars())
            seconds = time.perf_counter() - started
            found = ranges.outputs(quantized, held_out, setup, Bars(), f"{bits} {text}")
            agreement = 100 * task.agreement(reference, found)
            sqnr = task.sqnr_db(reference, found)
            cells = [top1(found) if targets else "–", f"{agreement:.2f}"]
            cells += ["–" if sqnr is None else f"{sqnr:.2f}", f"{seconds:.0f}"]
            print(f"| {bits} | `{text}` | {' | '.join(cells)} |", flush=True)


def top1(outputs: task.Logits) -> str:
    return f"{100 * task.metrics(outputs)['top1']:.2f}"


def recipe_of(bits: str, text: str) -> subbyte.Recipe:
    """The recipe of `w4a8` and further fields in YAML."""
    fields = yaml.safe_load(text)
    if not isinstance(fields, dict):
        raise SubbyteError(f"--recipes {text} are no fields of a recipe: write '{{ranges: lp}}'")
    base = arguments.recipe_of(bits, [], seed=0)
    return subbyte.Recipe(**base.model_dump(include={"weights", "activations"}) | fields)


if __name__ == "__main__":
    main()
