"""The loss at many settings: the same as of the whole network, for less work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from placed import placed
from residual import Residual
from simulations import with_ranges
from subbyte import Recipe
from subbyte.data.batches import ArgumentsOf
from subbyte.graph.output_loss import loss_of_outputs
from subbyte.methods.scale_search.chunks import Chunk, chunks_of
from subbyte.methods.scale_search.network import ScaledNetwork, mean_loss
from subbyte.methods.scale_search.scale_vector import ScaleVector, Search
from subbyte.placement.simulation import Simulation

IMAGES = torch.randn(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def divergence(outputs: Any, chunk: Chunk) -> torch.Tensor:
    """How far outputs are from the float model's."""
    return loss_of_outputs().mean(outputs, chunk.targets, chunk.args)


class Model(nn.Module):
    def __init__(self, results: str = "tensor") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Sequential(Residual(), nn.ReLU(), Residual())
        self.classifier = nn.Linear(8, 4)
        self.results = results

    def forward(self, x: torch.Tensor) -> Any:
        features = self.middle(torch.relu(self.stem(x))).mean((2, 3))
        logits = self.classifier(features)
        if self.results == "dictionary":
            return {"logits": logits, "features": features, "one": torch.ones(1)}
        return logits


def opened(
    model: nn.Module, search: Search = "scale", memory: int = 2**30
) -> tuple[Simulation, list[Chunk], ScaledNetwork]:
    torch.manual_seed(0)
    batches = ArgumentsOf([IMAGES[:50], IMAGES[50:]], torch.device("cpu"))
    recipe = Recipe(weights=3, activations=3, symmetric_activations=False)
    simulation = with_ranges(placed(model.eval(), next(iter(batches)), recipe), batches)
    chunks, labelled = chunks_of(simulation.float_model, batches, 70, "auto")
    assert not labelled
    vector = ScaleVector(simulation, search)
    return simulation, chunks, ScaledNetwork(simulation, vector, chunks, divergence, memory)


def points(network: ScaledNetwork, count: int) -> list[np.ndarray]:
    """Settings that differ from the best in one number each, and some in all."""
    random = np.random.default_rng(1)
    size = len(network.best)
    found = [0.1 * random.normal(size=size) for _ in range(count)]
    for i in range(size):
        found.append(found[0] + 0.2 * np.eye(size)[i])
    return found


@pytest.mark.parametrize("memory", [0, 150_000, 2**30])
@pytest.mark.parametrize("search", ["scale", "clip"])
def test_the_loss_is_that_of_the_whole_network(search: Search, memory: int) -> None:
    torch.manual_seed(3)
    simulation, chunks, network = opened(Model(), search, memory)
    assert [chunk.images for chunk in chunks] == [32, 18, 20]
    assert network.value == pytest.approx(mean_loss(simulation, chunks, divergence))
    for point in points(network, 3):
        found = network.evaluate(point)
        whole = mean_loss(simulation, chunks, divergence)
        assert found == pytest.approx(whole, rel=1e-5)
    lowest = network.value
    network.settle()
    assert mean_loss(simulation, chunks, divergence) == pytest.approx(lowest, rel=1e-5)


def test_what_comes_before_a_change_is_not_run_again() -> None:
    _, chunks, network = opened(Model())
    last = max(range(len(network.best)), key=lambda i: network.first[i])
    before = network.evaluated
    network.evaluate(0.05 * np.eye(len(network.best))[last])
    blocks = len(network.blocks) - network.first[last]
    assert network.evaluated - before == blocks * sum(chunk.images for chunk in chunks)
    assert blocks < len(network.blocks)


def test_a_setting_that_is_much_worse_is_given_up_early() -> None:
    _, chunks, network = opened(Model())
    for chunk in [chunks[0]] * 5:
        chunks.append(chunk)
    before = network.evaluated
    value, point = network.value, np.full(len(network.best), 3.0)
    assert network.evaluate(point) > value
    run = (network.evaluated - before) / len(network.blocks)
    assert run < 0.8 * sum(chunk.images for chunk in chunks)
    assert network.value == value
    assert (network.best == 0).all()


def test_outputs_of_any_form_and_constants_among_them() -> None:
    simulation, chunks, network = opened(Model("dictionary"))
    assert network.value == pytest.approx(mean_loss(simulation, chunks, divergence))
    assert network.value > 0
