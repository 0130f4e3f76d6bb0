"""What is known between layers: the user's own modules in float, the simulation's quantized."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from residual import Residual
from subbyte import Recipe, quantize
from subbyte.methods.common.activation_cache import of_regions_before
from subbyte.methods.common.store import Store
from subbyte.methods.gptq.order import LayerOrder, Operand
from subbyte.methods.gptq.region_values import RegionValues
from subbyte.placement.simulation import Simulation

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(images,) for images in IMAGES.split(24)]


def network() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Residual()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def rounded(model: nn.Module) -> Simulation:
    recipe = Recipe(weights=3, activations=3, first_last=None, method="range")
    return quantize(model, [images for (images,) in BATCHES], recipe)


@torch.no_grad()
@pytest.mark.parametrize("memory", [2**30, 0])
def test_values_are_those_of_the_network_up_to_there(memory: int) -> None:
    model = network()
    simulation = rounded(model)
    order = LayerOrder(simulation.float_model, simulation.placement, "")
    values = RegionValues(simulation, order, Store(memory, torch.device("cpu")), None, BATCHES)
    (image,) = values.values.values()
    assert torch.equal(image.exact, IMAGES)
    assert image.quantized is image.exact
    for layer in order.layers[:3]:  # the stem and both of the block
        order.settle(layer)
        fresh = values.fresh()
        values.compute_exact(fresh)
        values.advance(fresh)
    (kept,) = values.values.values()
    assert torch.allclose(kept.exact, model[:5](IMAGES), atol=1e-5)
    head = order.nodes[order.layers[3].node]
    part = values.quantized_part([Operand(head, 0)])
    key = next(x for x in simulation.placement.layers if x.node == head.name).activations[0]
    seen: list[torch.Tensor] = []
    hook = simulation.quantizer(key).register_forward_hook(lambda _, __, y: seen.append(y))
    simulation(IMAGES[:5])
    hook.remove()
    (read,) = part.run(slice(0, 5))
    assert torch.allclose(read.flatten(), seen[0].flatten(), atol=1e-5)
    assert not torch.allclose(kept.exact, kept.quantized, atol=1e-3)


class Regions(nn.Module):
    """A region that reads images, and one that reads what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = self.head(self.backbone(torch.stack(images)))
        return found


@torch.no_grad()
def test_a_later_region_reads_what_the_earlier_ones_give_quantized() -> None:
    model = Regions().eval()
    batches = [(list(images),) for (images,) in BATCHES]
    recipe = Recipe(weights=2, activations=3, method="range", regions=("backbone", "head"))
    simulation = quantize(model, [images for (images,) in batches], recipe)
    own = simulation.params
    before = of_regions_before(
        simulation.float_model, simulation.placement, own, "head", {"weight", "activation"}
    )
    order = LayerOrder(simulation.float_model, simulation.placement, "head")
    store = Store(2**30, torch.device("cpu"))
    values = RegionValues(simulation, order, store, before, batches)
    (found,) = values.values.values()
    seen: list[torch.Tensor] = []
    simulation.region("backbone").register_forward_hook(lambda _, __, y: seen.append(y))
    simulation(list(IMAGES))
    assert torch.allclose(found.exact, model.backbone(IMAGES), atol=1e-5)
    assert torch.allclose(found.quantized, seen[0], atol=1e-5)
    assert not torch.allclose(found.exact, found.quantized, atol=1e-3)
