"""`lapq`'s search against the plain one: SciPy's Powell, every evaluation of the whole network.

    uv run python benchmarks/lapq.py [--bits w4a4] [--images 512] [--evaluations 1680]

ResNet-20 for CIFAR-10 with its published weights; the calibration images are the first of 1,024
from $SUBBYTE_DATA, and the targets are the float model's outputs. Both searches start from the same
ranges (the quadratic fit over p), move the same step sizes and have the same loss. One thread;
seconds are processor time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import scipy.optimize
import torch
from cifar10 import resnet20

from subbyte import api, targets
from subbyte.app.arguments import recipe_of
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.output_loss import loss_of_outputs
from subbyte.methods import lapq
from subbyte.methods.common.context import Context
from subbyte.methods.scale_search.chunks import Chunk, chunks_of
from subbyte.methods.scale_search.network import mean_loss
from subbyte.methods.scale_search.scale_vector import ScaleVector
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.place import place
from subbyte.placement.simulation import Simulation, simulate
from subbyte.utils.progress import Silent

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", default="w4a4", help="such as w4a8")
    parser.add_argument("--images", type=int, default=512, help="that the loss is looked at on")
    parser.add_argument("--evaluations", type=int, default=1680, help="of the plain search at most")
    options = parser.parse_args()
    compare(*resnet20(), options)


def compare(module: torch.nn.Module, batches: ArgumentsOf, options: argparse.Namespace) -> None:
    """Print a row for each search."""
    recipe = recipe_of(options.bits, ["method=lapq"], seed=0)
    float_model = api.capture(module, next(iter(batches)))
    placement = place(float_model, recipe, targets.hints())
    chunks, _ = chunks_of(float_model, batches, options.images, "outputs")
    start = simulate(float_model, placement, QuantParams())
    lapq.start_by_exponent(start, batches, chunks, divergence, Silent())
    print(
        "| search | loss at first | loss found | evaluations | seconds |\n|---|---:|---:|---:|---:|"
    )
    ours = _ours(simulate(float_model, placement, start.params), chunks)
    plain = _plain(simulate(float_model, placement, start.params), chunks, options.evaluations)
    print(f"\nratio of the seconds: {ours / plain:.3f}")


def divergence(outputs: Any, chunk: Chunk) -> torch.Tensor:
    """How far outputs are from the float model's."""
    return loss_of_outputs().mean(outputs, chunk.targets, chunk.args)


class _Counting(Silent):
    """Counts the evaluations of the search."""

    def __init__(self) -> None:
        self.steps = 0

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` unchanged."""
        for item in items:
            self.steps += 1
            yield item


def _ours(simulation: Simulation, chunks: list[Chunk]) -> float:
    first, progress = mean_loss(simulation, chunks, divergence), _Counting()
    started = time.process_time()
    vector, context = ScaleVector(simulation, "scale"), Context(progress=progress)
    found = lapq.search(simulation, vector, chunks, divergence, lapq.Options(), context)
    seconds = time.process_time() - started
    _row("`lapq`", first, found, progress.steps, seconds)
    return seconds


def _plain(simulation: Simulation, chunks: list[Chunk], evaluations: int) -> float:
    vector = ScaleVector(simulation, "scale")
    losses: list[float] = []

    def loss(point: np.ndarray) -> float:
        vector.apply(point)
        losses.append(mean_loss(simulation, chunks, divergence))
        return losses[-1]

    started = time.process_time()
    count = len(vector.point)
    scipy.optimize.minimize(
        loss,
        np.zeros(count),
        method="Powell",
        options={"direc": 0.1 * np.eye(count), "maxfev": evaluations, "ftol": 1e-3, "xtol": 1e-2},
    )
    seconds = time.process_time() - started
    _row("plain", losses[0], min(losses), len(losses), seconds)
    return seconds


def _row(name: str, first: float, found: float, evaluations: int, seconds: float) -> None:
    print(f"| {name} | {first:.4f} | {found:.4f} | {evaluations} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
