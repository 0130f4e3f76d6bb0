"""What a network's blocks read, beside what it gives: far more to learn from than outputs alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.blocks import find_blocks
from subbyte.numerics.fake_quantize import FakeQuantize
from subbyte.placement.simulation import Captured


class Features:
    """The tensors that blocks read, in front of their grids.

    Those that no layer has touched, such as images, are left out.
    """

    def __init__(self, captured: Captured) -> None:
        grids: dict[int, FakeQuantize] = {}
        for position, region in enumerate(captured.region_names):
            called = {
                tensor.module: quantizer
                for tensor, quantizer in captured.quantizers("activation")
                if tensor.region == region
            }
            for block in find_blocks(captured, region):
                for node in block.inputs:
                    if node.op != "placeholder" or position:
                        grid = _in_front(node, called)
                        grids |= {} if grid is None else {id(grid): grid}
        self.grids = list(grids.values())

    @contextmanager
    def recorded(self) -> Iterator[list[torch.Tensor]]:
        """A list to which each run of the network adds its features, in its own order."""
        found: list[torch.Tensor] = []

        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            found.append(args[0])

        handles = [grid.register_forward_pre_hook(hook) for grid in self.grids]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def distance(found: list[torch.Tensor], expected: list[torch.Tensor]) -> torch.Tensor:
    """The squared error of each feature relative to its energy, in the mean over features."""
    errors = [
        (x - y).square().sum() / y.square().sum().clamp(min=1e-12)
        for x, y in zip(found, expected, strict=True)
    ]
    return torch.stack(errors).mean()


def _in_front(node: fx.Node, called: dict[str, FakeQuantize]) -> FakeQuantize | None:
    """The first grid that reads a node."""
    for reader in node.users:
        if reader.op == "call_module" and str(reader.target) in called:
            return called[str(reader.target)]
    return None
