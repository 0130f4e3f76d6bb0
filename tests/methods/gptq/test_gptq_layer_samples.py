"""LayerSamples of a layer: what it reads quantized, and what it should give for that."""

from __future__ import annotations

import torch
from torch import nn

from subbyte import Recipe, quantize
from subbyte.methods.common.samples import as_matrices, geometry_of
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.layer_samples import LayerSamples, SampledLayer, Sampling, collect_samples
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
