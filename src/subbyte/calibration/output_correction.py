"""Biases of the last layers that give back the mean of the float network's outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from subbyte.calibration.biased_layers import (
    BiasedLayer,
    Mean,
    Node,
    average,
    biased_layers,
    key_of,
    last_layers,
    observed,
)
from subbyte.graph.batch import (
    EVERY,
    IMAGES_AT_ONCE,
    batch_size,
    cut,
    in_batch,
    in_chunks,
    is_held_out,
)
from subbyte.graph.float_model import Regional
from subbyte.placement.simulation import Simulation
from subbyte.utils.progress import Progress

ALL = sys.maxsize
JUDGING = 64  # images, at most
NUMBERS = 2**24  # of the outputs that are kept of a chunk, at most; of one image they always are

Batches = Iterable[tuple[Any, ...]]  # the positional arguments of each
Means = Mapping[Node, torch.Tensor]  # of a layer's outputs, (channels,)


@dataclass(frozen=True)
class Judging:
    """Images that judge a correction: they had no part in it, unless there are too few.

    Attributes:
        images: Their positional arguments, in chunks.
        outputs: A network's raw outputs for each chunk.
        others: How many images do not judge.
    """

    images: list[tuple[Any, ...]]
    outputs: list[Any]
    others: int


@dataclass(frozen=True)
class Expected:
    """What the float network gives.

    Attributes:
        means: Mean outputs of the layers that stand last, over all images.
        learned: The same over the images that do not judge.
        judging: The images that do, and the float network's outputs for them.
    """

    means: Means
    learned: Means
    judging: Judging


@dataclass(frozen=True)
class Correction:
    """Biases with which the last layers give the float network's mean outputs.

    Attributes:
        biases: By their qualified names, from all images.
        trial: The same from the images that do not judge.
        learned: How many images these are; 0: there are too few, and all judge.
        expected: What the float network gives.
        found: What the simulation gives without the correction for the images that judge.
    """

    biases: dict[str, torch.Tensor]
    trial: dict[str, torch.Tensor]
    learned: int
    expected: Expected
    found: Judging


@torch.no_grad()
def correct_outputs(
    simulation: Simulation, expected: Expected, batches: Batches, images: int, progress: Progress
) -> Correction:
    """Shift the last layers' biases until their mean outputs are those of the float network.

    What all quantizers together, those of activations too, add to the outputs in the mean is taken
    back where nothing stands behind it any more.

    Args:
        simulation: With all parameters.
        expected: What the float network gives for the same images.
        batches: The calibration images.
        images: How many of them are looked at, the first ones.
        progress: Shows how far it is.
    """
    found = biased_layers(simulation.float_model, simulation.placement)
    layers = {key_of(placed): layer for placed, layer in found if key_of(placed) in expected.means}
    judging = recorded(simulation, layers, layers, batches, images, progress, "correcting outputs")
    biases = _shifted(simulation, layers, expected.means, lambda layer: layer.outputs)
    trial = biases
    if judging.others:
        trial = _shifted(simulation, layers, expected.learned, lambda layer: layer.learned)
    return Correction(biases, trial, judging.others, expected, judging)


@torch.no_grad()
def match_outputs(simulation: Simulation, batches: Batches, progress: Progress) -> Correction:
    """Shift the last layers' biases until their mean outputs on all images are the float ones.

    For methods that leave biases as they are: a block's own loss does not see what quantizers add
    in the mean, those of activations above all.

    Args:
        simulation: With all parameters.
        batches: The calibration images.
        progress: Shows how far it is.
    """
    float_model = simulation.float_model
    found = biased_layers(float_model, simulation.placement)
    layers = {key_of(placed): layer for placed, layer in found}
    last = last_layers(float_model, layers)
    judging = recorded(float_model, layers, last, batches, ALL, progress, "float outputs")
    expected = expected_of(layers, last, judging)
    return correct_outputs(simulation, expected, batches, ALL, progress)


def expected_of(
    layers: Mapping[Node, BiasedLayer], last: Iterable[Node], judging: Judging
) -> Expected:
    """What the float network gives, once its layers have been shown all images.

    Args:
        layers: By where they stand.
        last: Those that stand last.
        judging: The images that judge, with the float network's outputs.
    """
    ran = [node for node in last if layers[node].outputs.count]
    means = {node: layers[node].outputs.value() for node in ran}
    learned = {n: layers[n].learned.value() for n in ran if layers[n].learned.count}
    return Expected(means, learned, judging)


def recorded(
    model: Regional,
    layers: Mapping[Node, BiasedLayer],
    giving: Collection[Node],
    batches: Batches,
    images: int,
    progress: Progress,
    description: str,
    *,
    reading: bool = False,
) -> Judging:
    """Run a network and show layers what they read and give.

    Args:
        model: The float network or a simulation.
        layers: By where they stand.
        giving: Those that are shown their outputs.
        batches: The calibration images.
        images: How many of them are looked at, the first ones.
        progress: Shows how far it is.
        description: What progress calls it.
        reading: All layers are shown their inputs.

    Returns:
        The images that judge, and the network's raw outputs for them.
    """
    chunks = list(in_chunks(batches, images, IMAGES_AT_ONCE))
    sizes = [batch_size(args) for args in chunks]
    others = sum(size for i, size in enumerate(sizes) if not _judges(i, len(chunks)))
    judging, judges = Judging([], [], others), False

    def observe(node: Node, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        if reading:
            layers[node].read(inputs)
        if node in giving:
            layers[node].give(outputs, judging=judges)

    with observed(model, set(layers) if reading else set(giving), observe):
        for i, args in enumerate(progress.track(chunks, description)):
            judges = _judges(i, len(chunks))
            outputs = model.raw(*args)
            if judges and sum(map(batch_size, judging.images)) < JUDGING:
                _keep(judging, args, outputs)
    return judging


def _judges(chunk: int, chunks: int) -> bool:
    """Whether a chunk of so many judges: every fifth one, or the last of fewer."""
    return is_held_out(chunk) if chunks >= EVERY else chunk == chunks - 1


def _keep(judging: Judging, args: tuple[Any, ...], outputs: Any) -> None:
    """Keep the first images of a chunk, as many as have `NUMBERS` outputs."""
    size = batch_size(args)
    numbers = sum(x.numel() for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor))
    first = slice(0, min(size, max(1, NUMBERS * size // max(1, numbers))))
    judging.images.append(cut(args, first))
    judging.outputs.append(
        pytree.tree_map(lambda x: x[first].clone() if in_batch(x, size) else x, outputs)
    )


def _shifted(
    simulation: Simulation,
    layers: Mapping[Node, BiasedLayer],
    expected: Means,
    mean_of: Callable[[BiasedLayer], Mean],
) -> dict[str, torch.Tensor]:
    """The biases with which the means of some layers' outputs become those expected."""
    shifts: dict[str, list[tuple[torch.Tensor, int]]] = {}
    for node, layer in layers.items():
        mean = mean_of(layer)
        if mean.count and node in expected:
            shifts.setdefault(layer.bias, []).append((mean.value() - expected[node], mean.count))
    now = {name: simulation.bias(name) for name in shifts}
    return {name: now[name] - average(its).to(now[name]) for name, its in shifts.items()}
