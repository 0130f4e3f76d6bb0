"""What a network's blocks read, beside what it gives: far more to learn from than outputs alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn

from subbyte.graph.blocks import find_blocks
from subbyte.placement.simulation import Simulation


def feature_keys(simulation: Simulation) -> list[str]:
    """The keys of the quantized tensors that blocks read.

    Those that no layer has touched, such as images, are left out.
    """
    keys: dict[str, None] = {}
    for position, name in enumerate(simulation.region_names):
        region = simulation.region(name)
        quantizers = {
            id(quantizer): tensor.key
            for tensor, quantizer in simulation.activations()
            if tensor.region == name
        }
        layers = {
            layer.node: layer.name
            for layer in simulation.placement.layers
            if layer.region == name and not layer.reason
        }
        for block in find_blocks(region, name, layers):
            for node in block.inputs:
                if node.op != "placeholder" or position:
                    key = _first_quantizer(region, node, quantizers)
                    keys |= {} if key is None else {key: None}
    return list(keys)


@contextmanager
def recorded(simulation: Simulation, keys: Collection[str]) -> Iterator[list[torch.Tensor]]:
    """A list to which each run adds the tensors of some keys in front of their quantizers.

    They come in the order in which the network runs.
    """
    found: list[torch.Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])

    with ExitStack() as stack:
        for key in keys:
            handle = simulation.quantizer(key).register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        yield found


def energies_of(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sum of the squares of each, as a number above 0."""
    return [x.square().sum().clamp(min=1e-12) for x in features]


def distance(
    found: list[torch.Tensor], expected: list[torch.Tensor], energies: list[torch.Tensor]
) -> torch.Tensor:
    """The squared error of each feature relative to its energy, in the mean over features.

    Args:
        found: The features.
        expected: What they should be.
        energies: Of the expected ones, by `energies_of`.
    """
    errors = [
        _SquaredError.apply(x, y) / energy
        for x, y, energy in zip(found, expected, energies, strict=True)
    ]
    return torch.stack(errors).mean()


class _SquaredError(torch.autograd.Function):
    """The sum of the squares of x − y, with a gradient in x, in few passes over them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        difference = x - y
        ctx.save_for_backward(difference)
        flat = difference.reshape(-1)
        return torch.dot(flat, flat)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (2 * gradient), None


def _first_quantizer(
    region: fx.GraphModule, node: fx.Node, quantizers: dict[int, str]
) -> str | None:
    """The key of the first quantizer that reads a node."""
    for reader in node.users:
        if reader.op == "call_module":
            key = quantizers.get(id(region.get_submodule(str(reader.target))))
            if key is not None:
                return key
    return None
