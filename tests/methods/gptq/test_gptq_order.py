"""What waits for what, what is kept meanwhile, and what is added to a layer's output."""

from __future__ import annotations

import torch
from torch import nn

from placed import placed
from subbyte import Recipe
from subbyte.methods.gptq.order import LayerOrder, Operand

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


def order() -> LayerOrder:
    simulation = placed(Residual().eval(), (IMAGES,), Recipe())
    return LayerOrder(simulation.float_model, simulation.placement, "")


def test_layers_come_in_the_graphs_order() -> None:
    assert [layer.name for layer in order().layers] == ["stem", "first", "second", "shortcut"]


def test_only_the_branch_that_comes_last_knows_what_is_added_to_it() -> None:
    found = order()
    branches: dict[str, Operand | None] = {}
    nodes = {}
    for layer in found.layers:
        branches[layer.name] = found.residual_branch(layer)
        found.settle(layer)
        nodes[layer.name] = found.nodes[layer.node]
    assert [name for name, branch in branches.items() if branch is not None] == ["shortcut"]
    branch = branches["shortcut"]
    assert branch is not None
    assert branch.node is nodes["second"]
    assert branch.reader.args[branch.position] is branch.node
    assert nodes["shortcut"] in branch.reader.args
    assert found.sources([branch.node], {nodes["second"].name}) == [nodes["second"]]


def test_what_is_computed_is_computed_from_what_is_nearest() -> None:
    found = order()
    second = found.nodes[found.layers[2].node]
    stem = found.nodes[found.layers[0].node]
    (image,) = (node for node in found.graph.nodes if node.op == "placeholder")
    assert found.sources([second], {image.name}) == [image]
    assert found.sources([second], {image.name, stem.name}) == [stem]


def test_what_is_kept_is_what_later_layers_read() -> None:
    found = order()
    kept = []
    for layer in found.layers:
        found.settle(layer)
        kept.append([node.name for node in found.frontier()])
    relu = kept[0]
    assert len(relu) == 1
    assert kept[1][0] == relu[0]  # the shortcut reads it still
    assert len(kept[1]) == 2
    assert found.layers[2].node in kept[2]
    assert kept[3] == []


class Twice(nn.Module):
    """A layer that is used twice, and one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(6, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.relu(self.again(torch.relu(self.again(x)))))
        return found


def test_of_layers_that_share_a_weight_the_first_stands_for_all() -> None:
    simulation = placed(Twice().eval(), (torch.randn(2, 6),), Recipe())
    found = LayerOrder(simulation.float_model, simulation.placement, "")
    assert [layer.name for layer in found.layers] == ["again", "last"]
    found.settle(found.layers[0])
    (kept,) = found.frontier()  # what the last one reads: the second use waits for nothing
    last = found.nodes[found.layers[1].node]
    assert kept is last.args[0]
