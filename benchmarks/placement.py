"""Simulation and runtimes on calibration images held out: what they differ by, and what it costs.

    uv run python benchmarks/placement.py EXPERIMENT.yaml --set KEY=VALUE --images 512 --bits w8a8

In a file for OpenVINO fewer tensors are quantized than in the one for all. Each runtime runs its
own file. The simulation of it runs too, and runs again with what comes to its quantizers off by a
millionth at random, as sums of float32 are: what differs no more than that is a matter of values
between two integers. The experiment's first calibration images calibrate, the others are measured:
the evaluation images stay untouched. The simulation of OpenVINO's file is compared with that of
all quantizers, everything else with the simulation of its own file. "Outputs corrected" takes the
means over the first 128 images to those of the float model, as the last step of `bias_correction`
would for this very file. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from held_out import recipe_of
from untrained import nudged, simulation_for

import models
import subbyte
from subbyte.app import experiment
from subbyte.app.setup import Setup, set_up
from subbyte.errors import SubbyteError
from subbyte.placement.simulation import Simulation
from subbyte.targets import base as verify
from subbyte.tasks.metrics import classification as task
from subbyte.utils.bars import Bars

MEANS, BATCH, DRAWS = 128, 32, (10, 11)
Named = tuple[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a YAML file or a built-in experiment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--images", type=int, default=512, help="that calibrate; the others judge")
    parser.add_argument("--bits", default="w8a8", help="such as w4a8")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        loaded = experiment.load(options.experiment, [*options.settings, "runtimes=[]"])
        print(table(set_up(loaded, (), Bars()), options.images, options.bits))
    except SubbyteError as error:
        sys.exit(str(error))


def table(setup: Setup, count: int, bits: str) -> str:
    """A row for each of what was run; top-1 where the calibration images have labels."""
    batches = list(setup.task.data.calibration)
    images = torch.cat([batch["inputs"] for batch in batches])
    if not MEANS <= count < len(images):
        raise SubbyteError(f"--images {count}: give {MEANS} or more, and fewer than {len(images)}")
    seen = torch.cat([images[:MEANS], images[count:]])
    targets = [batch["targets"] for batch in batches if "targets" in batch]
    labels = torch.cat(targets)[count:].numpy() if targets else None
    calibration = list(torch.split(images[:count], setup.experiment.batch_size))
    quantized = subbyte.quantize(
        setup.module, calibration, recipe_of(bits, "{method: bias_correction}"), progress=Bars()
    )
    exact = models.in_batches(verify.simulated(setup.module.eval(), "cpu"), seen, BATCH)
    lines = [
        f"{bits.upper()}; {count} images calibrate, {len(seen) - MEANS} others judge.\n",
        "| | agreement with float % | SQNR dB | top-1 % | agreement with the simulation % "
        "| SQNR of the difference dB | agreement with float, outputs corrected % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    against: np.ndarray | None = None
    for runtime in models.RUNTIMES:
        for i, (name, found) in enumerate(runs(quantized, runtime, seen)):
            lines.append(row(name, found, exact, against, labels))
            against = found if i == 0 else against
    return "\n".join(lines)


def runs(quantized: Simulation, runtime: str, seen: torch.Tensor) -> Iterator[Named]:
    """The simulation of a runtime's file, the same nudged, and the runtime."""
    shown = models.RUNTIMES[runtime]
    simulation = simulation_for(runtime, quantized)
    run = verify.simulated(simulation, "cpu")
    yield f"simulation of {shown}'s file", models.in_batches(run, seen, BATCH)
    for seed in DRAWS:
        with nudged(simulation, seed):
            yield "the same, nudged", models.in_batches(run, seen, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        subbyte.export(quantized, path, seen[:2], target=runtime)
        session = verify.runtime(runtime).load(path, 1)
        yield shown, models.in_batches(verify.deployed(session), seen, BATCH)


def row(
    name: str,
    found: np.ndarray,
    exact: np.ndarray,
    against: np.ndarray | None,
    labels: np.ndarray | None,
) -> str:
    """One row; `against`: the logits of the simulation that it is compared with."""
    corrected = found - (found[:MEANS] - exact[:MEANS]).mean(0)
    unlabelled = np.zeros(len(found) - MEANS, np.int64)
    own, reference, expected, shifted = (
        task.Logits(logits[MEANS:], unlabelled if labels is None else labels)
        for logits in (found, exact, found if against is None else against, corrected)
    )
    cells = [
        f"{100 * task.agreement(reference, own):.2f}",
        decibels(task.sqnr_db(reference, own)),
        "–" if labels is None else f"{100 * task.metrics(own)['top1']:.2f}",
        "–" if against is None else f"{100 * task.agreement(expected, own):.2f}",
        decibels(task.sqnr_db(expected, own)),
        f"{100 * task.agreement(reference, shifted):.2f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def decibels(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.1f}"


if __name__ == "__main__":
    main()
