"""How much rows matter: squared gradients, by hand."""

from __future__ import annotations

import torch
from torch import nn

from placed import placed
from subbyte import Recipe
from subbyte.methods.common.samples import Geometry, geometry_of
from subbyte.methods.gptq.order import LayerOrder
from subbyte.methods.gptq.row_weights import row_weights
from subbyte.placement.simulation import Simulation
from subbyte.utils.progress import Silent


class Weighing(nn.Module):
    """Every position of the first layer counts by a number of its own, 1 to 9."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.register_buffer("factors", torch.arange(1.0, 10.0).view(3, 3))
        self.last = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weighed: torch.Tensor = self.last((self.first(x) * self.factors).sum((2, 3)))
        return weighed


def geometries(simulation: Simulation, region: str) -> dict[str, Geometry]:
    """How the layers of a region read their inputs, by their names."""
    order = LayerOrder(simulation.float_model, simulation.placement, region)
    weights = {t.key: simulation.weight(t) for t in simulation.placement.of_role("weight")}
    return {
        layer.node: geometry_of(order.nodes[layer.node], weights[layer.weight or ""])
        for layer in order.layers
    }


def test_rows_count_by_the_squares_of_what_they_add_to_the_output() -> None:
    images = torch.randn(5, 3, 3, 3)
    simulation = placed(Weighing().eval(), (images,), Recipe())
    layers = geometries(simulation, "")
    first, last = layers
    found = row_weights(
        simulation.float_model, {"": layers}, [(images[:2],), (images[2:],)], Silent()
    )
    expected = torch.arange(1.0, 10.0).square()
    assert found["", first].shape == (5, 9)
    assert torch.allclose(found["", first], (expected / expected.mean()).expand(5, 9), rtol=1e-4)
    assert torch.allclose(found["", last], torch.ones(5, 1))


def test_no_gradient_is_left_at_the_float_model() -> None:
    images = torch.randn(5, 3, 3, 3)
    simulation = placed(Weighing().eval(), (images,), Recipe())
    float_model = simulation.float_model
    row_weights(float_model, {"": geometries(simulation, "")}, [(images,)], Silent())
    for module in (float_model.model, float_model.original):
        assert all(parameter.grad is None for parameter in module.parameters())


class Regions(nn.Module):
    """A region that reads images, and one that reads what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(2, 2, 1)
        self.head = Head()

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.head(self.backbone(torch.stack(images)))
        return found


class Head(nn.Module):
    """One output for an image, from four positions that count differently."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.register_buffer("factors", torch.arange(1.0, 5.0).view(2, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weighed: torch.Tensor = (self.conv(x) * self.factors).sum((2, 3))
        return weighed


def test_all_regions_are_weighed_in_one_run() -> None:
    images = list(torch.randn(6, 2, 2, 2))
    model = Regions().eval()
    simulation = placed(model, (images,), Recipe(regions=["backbone", "head"]))
    float_model, runs = simulation.float_model, []
    handle = float_model.region("backbone").register_forward_hook(lambda *_: runs.append(1))
    layers = {region: geometries(simulation, region) for region in float_model.region_names}
    found = row_weights(float_model, layers, [(images[:4],), (images[4:],)], Silent())
    handle.remove()
    assert len(runs) == 2
    expected = torch.arange(1.0, 5.0).square()
    expected = (expected / expected.mean()).expand(6, 4)
    (first,) = layers["backbone"]
    (second,) = layers["head"]
    assert torch.allclose(found["head", second], expected, rtol=1e-4)
    # The gradient behind the head's weights has random signs that are the same at all positions.
    of_first = found["backbone", first]
    assert torch.allclose(of_first / of_first[:, :1], expected / expected[:, :1], rtol=1e-4)
