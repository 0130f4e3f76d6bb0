"""Which activations a target without zero points can hold in unsigned integers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from placed import placed
from subbyte.recipe import Recipe
from subbyte.targets.onnx.symmetric import never_negative, with_symmetric


class Signs(nn.Module):
    """Values of either sign and of one, summed, averaged, joined and moved."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "second", "third", "fourth", "fifth", "last"):
            setattr(self, name, nn.Conv2d(3 if name == "first" else 4, 4, 1))
        self.joined = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu6(self.first(x))
        b = F.relu(self.second(a))
        c = self.third(F.avg_pool2d(a + b, 2))
        d = self.fourth(F.max_pool2d(c.sigmoid() * c.clamp(0, 3), 2))
        e = self.fifth(F.silu(d))
        return self.last(self.joined(torch.cat([F.relu(e), e], 1)) + 1.0)


def test_what_is_never_negative() -> None:
    simulation = placed(Signs().eval(), (torch.rand(2, 3, 8, 8),), Recipe())
    found = never_negative(simulation.float_model, simulation.placement)
    layers = {key.removesuffix(".activation") for key in found}
    assert {"second", "third", "fourth"} <= layers
    assert not layers & {"first", "fifth", "joined", "last"}


def test_those_that_are_chosen_become_symmetric() -> None:
    placement = placed(Signs().eval(), (torch.rand(2, 3, 8, 8),), Recipe()).placement
    found = with_symmetric(placement, lambda tensor: tensor.layer == "fifth")
    changed = [
        (before.layer, after.spec.symmetric)
        for before, after in zip(placement.tensors, found.tensors, strict=True)
        if before != after
    ]
    assert changed == [("fifth", True)]
