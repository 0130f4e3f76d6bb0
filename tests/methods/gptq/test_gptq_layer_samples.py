"""LayerSamples of a layer: what it reads quantized, and what it should give for that."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.methods.common.samples import as_matrices, geometry_of
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.layer_samples import (
    LayerSamples,
    SampledLayer,
    Sampling,
    collect_samples,
    drawn_by_weight,
)
from subbyte.methods.gptq.order import LayerOrder
from subbyte.methods.gptq.region_values import RegionValues

ALL = Sampling(least=10**6)
X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


class Sum(nn.Module):
    """Two layers of one input, added."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.one(x) + self.other(x)
        return found


def samples_of_last(
    model: Sum, x: torch.Tensor, row_weights: torch.Tensor | None = None
) -> tuple[LayerSamples, torch.Tensor, torch.Tensor]:
    """Those of the second layer, with what it reads and what the first one gives, quantized."""
    recipe = Recipe(weights=2, activations=4, first_last=None, method="range")
    simulation = quantize(model.eval(), [x], recipe)
    order = LayerOrder(simulation.float_model, simulation.placement, "")
    values = RegionValues(simulation, order, Store(2**30, x.device), None, [(x,)])
    with torch.no_grad():
        for layer in order.layers:
            branch = order.residual_branch(layer)
            order.settle(layer)
            fresh = values.fresh()
            if layer is not order.layers[-1]:
                values.compute_exact(fresh)
                values.advance(fresh)
        node = order.nodes[layer.node]
        weight = simulation.weight(simulation.placement.tensor(layer.weight or ""))
        geometry = geometry_of(node, weight)
        sampled = SampledLayer(node, as_matrices(weight, geometry), geometry, branch, row_weights)
        generator = torch.Generator().manual_seed(0)
        samples = collect_samples(sampled, values, fresh, ALL, generator)
        first = simulation.placement.tensor(order.layers[0].weight or "")
        reader, quantizer = (
            simulation.quantizer(key)
            for key in (simulation.placement.layers[0].activations[0], first.key)
        )
        reads, weight = reader(x), quantizer(simulation.weight(first))
        step = reader.scale * quantizer.scale  # of the sums to which the bias is rounded
        bias = (model.one.bias / step).round() * step
        return samples, reads, nn.functional.linear(reads, weight, bias)


def test_targets_make_up_for_what_the_other_branch_has_lost() -> None:
    model = Sum()
    samples, reads, branch = samples_of_last(model, X)
    with torch.no_grad():
        targets = (model(X) - branch).double()
    train, held_out = torch.arange(40), torch.arange(40, 50)  # the fifth chunk of ten images
    for accumulator, some in ((samples.train, train), (samples.held_out, held_out)):
        assert accumulator.count == len(some)
        zeros = torch.zeros(1, 4, 6)
        expected = targets[some].square().mean(0)
        assert torch.allclose(accumulator.loss(zeros, None)[0].double(), expected, rtol=1e-3)
        h, c = accumulator.normal(centred=False)
        x = reads[some].double()
        assert torch.allclose(h[0].double(), x.T @ x / len(some), atol=1e-4)
        assert torch.allclose(c[0].double(), x.T @ targets[some] / len(some), atol=1e-4)


def test_of_few_images_some_rows_of_each_judge() -> None:
    x = torch.randn(3, 10, 6, generator=torch.Generator().manual_seed(0))
    samples, _, _ = samples_of_last(Sum(), x)
    assert samples.held_out.count == 3 * 2  # a fifth of ten positions
    assert samples.train.count == 3 * 8


def test_rows_count_by_their_weights() -> None:
    counts = torch.arange(50.0)[:, None]
    samples, _, _ = samples_of_last(Sum(), X, counts)
    assert samples.train.count == float(counts[:40].sum())
    assert samples.held_out.count == float(counts[40:].sum())


def test_weights_of_other_images_are_not_used() -> None:
    samples, _, _ = samples_of_last(Sum(), X, torch.arange(20.0)[:, None])
    assert samples.train.count == 40


def test_rows_drawn_by_weight_give_in_the_mean_what_all_rows_give() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = torch.rand(10_000, generator=generator) * 1e-3
    weights[torch.randperm(10_000, generator=generator)[:50]] = 20.0  # the few that matter
    values = torch.randn(10_000, generator=generator).square()
    expected = float((weights.double() * values).mean())
    found, by_chance = [], []
    for _ in range(200):
        rows, factors = drawn_by_weight(weights, 400, generator)
        assert float(factors.max()) <= 2 * float(weights.mean()) * (1 + 1e-6)
        found.append(float((factors * values[rows]).mean()))
        rows = torch.randperm(10_000, generator=generator)[:400]
        by_chance.append(float((weights[rows] * values[rows]).mean()))
    assert sum(found) / 200 == pytest.approx(expected, rel=0.02)
    spread, spread_by_chance = (
        torch.tensor(x).sub(expected).square().mean().sqrt() for x in (found, by_chance)
    )
    assert spread < 0.2 * spread_by_chance


def test_rows_of_which_none_counts_are_drawn_by_chance() -> None:
    generator = torch.Generator().manual_seed(3)
    rows, factors = drawn_by_weight(torch.zeros(100), 50, generator)
    assert not factors.any()
    assert len(set(rows.tolist())) > 40
    assert int(rows.max()) > 90
