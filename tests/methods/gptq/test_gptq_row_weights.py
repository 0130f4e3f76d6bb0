"""How much rows matter: squared gradients, by hand."""

from __future__ import annotations

import torch
from torch import nn

from subbyte import Recipe, api
from subbyte.methods.common.samples import geometry_of
from subbyte.methods.gptq.order import Order
from subbyte.methods.gptq.row_weights import row_importance
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


def test_rows_count_by_the_squares_of_what_they_add_to_the_output() -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 3, 3, 3)
    captured = api.prepare(Weighing().eval(), (images,), Recipe())
    order = Order(captured, "")
    layers = {}
    for layer in order.layers:
        node = order.nodes[layer.name]
        layers[node] = geometry_of(node, captured.weight(order.weight(layer)))
    found = row_importance(captured, {"": layers}, [(images[:2],), (images[2:],)], Silent())
    first = found[order.nodes["first"]]
    expected = torch.arange(1.0, 10.0).square()
    assert first.shape == (5, 9)
    assert torch.allclose(first, (expected / expected.mean()).expand(5, 9), rtol=1e-4)
    assert torch.allclose(found[order.nodes["last"]], torch.ones(5, 1))


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
    torch.manual_seed(0)
    images = list(torch.randn(6, 2, 2, 2))
    model = Regions().eval()
    captured = api.prepare(model, (images,), Recipe(regions=["backbone", "head"]))
    runs = []
    handle = captured.region("backbone").register_forward_hook(lambda *_: runs.append(1))
    orders = {region: Order(captured, region) for region in captured.region_names}
    layers = {
        region: {
            node: geometry_of(node, captured.weight(order.weight(layer)))
            for layer in order.layers
            for node in [order.nodes[layer.name]]
        }
        for region, order in orders.items()
    }
    found = row_importance(captured, layers, [(images[:4],), (images[4:],)], Silent())
    handle.remove()
    assert len(runs) == 2
    expected = torch.arange(1.0, 5.0).square()
    expected = (expected / expected.mean()).expand(6, 4)
    (first,) = layers["backbone"]
    (second,) = layers["head"]
    assert torch.allclose(found[second], expected, rtol=1e-4)
    # The gradient behind the head's weights has random signs that are the same at all positions.
    assert torch.allclose(found[first] / found[first][:, :1], expected / expected[:, :1], rtol=1e-4)
