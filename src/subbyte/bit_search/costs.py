"""What layers and whole models cost: bytes in the file, and multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import fx

from subbyte.graph.batch import batch_size
from subbyte.graph.float_model import FloatModel, interpreted, qualified
from subbyte.graph.layers import FoundLayer
from subbyte.graph.operators import get_tensor
from subbyte.methods.common.samples import geometry_of, positions
from subbyte.placement.simulation import Simulation
from subbyte.targets import files as target_files

FLOAT_BITS = 32
SCALE_BYTES = 4 + 1  # of a channel: its scale and its zero point
UNPACKING_BYTES = 130  # of the nodes and constants that unpack a weight, about


def weight_bytes(count: int, channels: int, bits: int | None) -> int:
    """What a weight takes in a file, the smallest form that holds it.

    Args:
        count: How many numbers it has.
        channels: How many scales.
        bits: Of each number; `None`: it stays in float.
    """
    if bits is None:
        return count * FLOAT_BITS // 8
    packed = [math.ceil(count * wide / 8) + UNPACKING_BYTES + channels for wide in range(bits, 8)]
    return min([*packed, count]) + channels * SCALE_BYTES


def file_bytes(
    simulation: Simulation, example: tuple[Any, ...], *, postprocess: bool = True
) -> float:
    """The size of the file for all runtimes, each weight stored in as many bits as it has.

    Args:
        simulation: The model.
        example: A batch's arguments.
        postprocess: Whether a detector is written with the whole way to boxes.
    """
    with TemporaryDirectory() as scratch:
        path = target_files.file_in(Path(scratch), simulation.placement.recipe.target)
        target_files.export(simulation, path, example, None, postprocess)
        return float(path.stat().st_size)


def layer_multiply_adds(float_model: FloatModel, args: tuple[Any, ...]) -> dict[str, float]:
    """The multiply-adds of each layer for one image, by the layer's qualified name.

    Args:
        float_model: The model.
        args: The arguments of a batch.
    """
    images = batch_size(args)
    found: dict[str, float] = {}
    with ExitStack() as stack, torch.no_grad():
        for region in float_model.region_names:
            counter = _Counter(float_model, region, found)
            stack.enter_context(interpreted(float_model.region(region), counter))
        float_model.raw(*args)
    return {name: count / images for name, count in found.items()}


class _Counter(fx.Interpreter):
    """Runs a region and counts its layers' multiply-adds."""

    def __init__(self, float_model: FloatModel, region: str, found: dict[str, float]) -> None:
        super().__init__(float_model.region(region))
        self.region, self.found = region, found
        self.layers: Mapping[fx.Node, FoundLayer] = {
            layer.node: layer for layer in float_model.layers[region] if not layer.reason
        }
        self.own = float_model.region(region)

    def run_node(self, n: fx.Node) -> Any:
        output = super().run_node(n)
        layer = self.layers.get(n)
        if layer is not None and isinstance(output, torch.Tensor):
            name = qualified(self.region, layer.name)
            self.found[name] = self.found.get(name, 0.0) + self._count(layer, output)
        return output

    def _count(self, layer: FoundLayer, output: torch.Tensor) -> float:
        if layer.weight is not None:
            weight = get_tensor(self.own, layer.weight)
            return float(positions(output, geometry_of(layer.node, weight)) * weight.numel())
        first = self.env[layer.node.all_input_nodes[0]]
        return float(output.numel() * first.shape[-1])
