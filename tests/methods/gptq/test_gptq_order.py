"""What waits for what, what is kept meanwhile, and what is added to a layer's output."""

from __future__ import annotations

import torch
from torch import nn

from subbyte import Recipe, api
from subbyte.methods.gptq.order import Order

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """A block with a layer in its shortcut, which stands last in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


def order() -> Order:
    return Order(api.prepare(Residual().eval(), (IMAGES,), Recipe()), "")


def test_layers_come_in_the_graphs_order() -> None:
    assert [layer.name for layer in order().layers] == ["stem", "first", "second", "shortcut"]


def test_only_the_branch_that_is_fitted_last_knows_what_is_added_to_it() -> None:
    found = order()
    partners = {}
    for layer in found.layers:
        partners[layer.name] = found.partner(found.nodes[layer.name])
        found.fitted(layer)
    assert [name for name, partner in partners.items() if partner is not None] == ["shortcut"]
    partner = partners["shortcut"]
    assert partner is not None
    assert found.sources([partner], {found.nodes["second"]}) == [found.nodes["second"]]


def test_what_is_kept_is_what_later_layers_read() -> None:
    found = order()
    kept = []
    for layer in found.layers:
        found.fitted(layer)
        kept.append([node.name for node in found.frontier()])
    relu = kept[0]
    assert len(relu) == 1
    assert kept[1][0] == relu[0]  # the shortcut reads it still
    assert len(kept[1]) == 2
    assert found.nodes["second"].name in kept[2]
    assert kept[3] == []
