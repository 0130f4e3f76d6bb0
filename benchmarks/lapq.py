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

import numpy as np
import scipy.optimize
import torch
from cifar10 import resnet20

from subbyte import api
from subbyte.app.commands import recipe_of
from subbyte.data.batches import ArgumentsOf
from subbyte.methods import lapq
from subbyte.methods.common.output_loss import divergence, portions_of
from subbyte.methods.scale_search.network import Network, Portion, mean_loss
from subbyte.methods.scale_search.scale_vector import Sizes
from subbyte.numerics.fake_quantize import State
from subbyte.placement.simulation import Captured
from subbyte.utils.progress import Silent


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
    captured = api.prepare(module, next(iter(batches)), recipe)
    portions, _ = portions_of(captured, batches, options.images, "outputs")
    lapq._start_by_exponent(captured, batches, portions, divergence, Silent())
    captured.set_state(State.QUANTIZE)
    print(
        "| search | loss at first | loss found | evaluations | seconds |\n|---|---:|---:|---:|---:|"
    )
    ours = _ours(captured, portions)
    plain = _plain(captured, portions, options.evaluations)
    print(f"\nratio of the seconds: {ours / plain:.3f}")


def _ours(captured: Captured, portions: list[Portion]) -> float:
    count, first = 0, mean_loss(captured, portions, divergence)
    evaluate = Network.evaluate

    def counting(network: Network, point: np.ndarray) -> float:
        nonlocal count
        count += 1
        return evaluate(network, point)

    Network.evaluate = counting  # type: ignore[method-assign]
    started = time.process_time()
    with Sizes(captured, "scale") as sizes:
        found = lapq.search(captured, sizes, portions, divergence, lapq.Options(), Silent())
        seconds = time.process_time() - started
        sizes.apply(np.zeros_like(sizes.point))
    _row("`lapq`", first, found, count, seconds)
    return seconds


def _plain(captured: Captured, portions: list[Portion], evaluations: int) -> float:
    sizes = Sizes(captured, "scale")  # weights are not held: they are quantized every time
    losses: list[float] = []

    @torch.no_grad()
    def loss(point: np.ndarray) -> float:
        sizes.apply(point)
        for grid in sizes.weights:
            grid.instead = None
        total = sum(float(divergence(captured(*p.args), p.targets)) * p.images for p in portions)
        losses.append(total / sum(p.images for p in portions))
        return losses[-1]

    started = time.process_time()
    count = len(sizes.point)
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
