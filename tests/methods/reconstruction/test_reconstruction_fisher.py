"""What each value of a block's outputs counts: against the Fisher information by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from placed import placed
from subbyte import Recipe, quantize
from subbyte.methods.common.simulated_blocks import blocks_of
from subbyte.methods.common.store import Store
from subbyte.methods.reconstruction.block_loss import block_loss
from subbyte.methods.reconstruction.fisher import fisher_diagonal

IMAGES = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self, results: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)
        self.results = results

    def forward(self, x: torch.Tensor) -> Any:
        y = self.last(torch.relu(self.first(x)))
        return (y, y[:, :1]) if self.results == "two" else y


def found(results: str, images: int = len(IMAGES)) -> tuple[Net, list[torch.Tensor]]:
    model = Net(results).eval()
    batches = [(IMAGES[:500],), (IMAGES[500:],)]
    simulation = placed(model, batches[0], Recipe(weights=4, activations=4))
    block, store = blocks_of(simulation, "")[0], Store(2**20, CPU)
    return model, fisher_diagonal(simulation.float_model, block, batches, images, store)


def test_in_the_mean_it_is_the_diagonal_of_the_fisher_information() -> None:
    model, (values,) = found("logits")
    with torch.no_grad():
        shares = model(IMAGES).double().softmax(1)
        # Of logits z it is E[(e_y − p)(e_y − p)ᵀ] = diag(p) − p pᵀ; through z = W h + b.
        information = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
        weight = model.last.weight.double()
        expected = torch.einsum("ci,ncd,di->ni", weight, information, weight)
    assert float(values.mean()) == pytest.approx(1, rel=1e-5)
    mean = expected.mean(0) / expected.mean()
    assert values.double().mean(0).numpy() == pytest.approx(mean.numpy(), rel=0.15)


def test_of_other_outputs_it_is_that_of_their_squared_error() -> None:
    model, (values,) = found("two")
    weight = model.last.weight.detach().double()
    # Outputs are y and once more y's first: the squared gradients of all, in the mean over signs.
    expected = weight.square().sum(0) + weight[0].square()
    assert values.double().mean(0).numpy() == pytest.approx(
        (expected / expected.mean()).numpy(), rel=0.15
    )


def test_what_is_drawn_depends_on_the_image_alone() -> None:
    _, (every,) = found("logits")
    _, (some,) = found("logits", 70)
    ratio = every[:70] / some
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


@pytest.mark.parametrize("p", [2.0, 2.4])
def test_factors_weigh_the_loss_and_its_gradient(p: float) -> None:
    random = torch.Generator().manual_seed(1)
    output, target = (torch.randn(5, 4, generator=random).double() for _ in range(2))
    factors = torch.rand(5, 4, generator=random).double()
    output.requires_grad_()
    expected = (factors * (output - target).abs().pow(p)).sum(1).mean()
    expected.backward()
    loss, (gradient,) = block_loss([output], [target], p, [factors])
    assert loss == pytest.approx(float(expected.detach()))
    assert torch.allclose(gradient, output.grad)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brecq", "qdrop"])
def test_methods_take_it(name: str) -> None:
    results = []
    for fisher in (False, True):
        method = {"name": name, "steps": 30, "fisher": fisher}
        recipe = Recipe(weights=2, activations=4, first_last=None, method=method)
        quantized = quantize(Net("logits").eval(), [IMAGES[:64]], recipe)
        results.append(quantized(IMAGES))
    assert bool(torch.isfinite(results[1]).all())
    assert not torch.equal(*results)
