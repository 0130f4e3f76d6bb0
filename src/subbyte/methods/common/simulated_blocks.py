"""The blocks of a simulation's regions, and the same parts of the float model."""

from __future__ import annotations

from torch import fx

from subbyte.graph.blocks import Block, find_blocks, same_part, single_layers
from subbyte.placement.simulation import Simulation


def blocks_of(simulation: Simulation, region: str) -> list[Block]:
    """The blocks of a region with its quantizers, in the order in which they run."""
    return find_blocks(simulation.region(region), region, _layer_names(simulation, region))


def layers_of(simulation: Simulation, block: Block) -> list[Block]:
    """The layers of a block that have a quantized weight, each with what only it leads to."""
    region = block.region
    layers = simulation.placement.layers
    weighted = {x.node for x in layers if x.region == region and x.weight is not None}
    names = _layer_names(simulation, region)
    return single_layers(simulation.region(region), block, names, weighted)


def float_part(simulation: Simulation, block: Block) -> fx.GraphModule:
    """What a block is in the float model: it takes and gives the same tensors, in float."""
    region = simulation.float_model.region(block.region)
    inputs, outputs = ([_in_float(n) for n in nodes] for nodes in (block.inputs, block.outputs))
    return same_part(region, inputs, outputs)


def float_name(node: fx.Node) -> str:
    """The name of the float model's node that stands for a simulation's."""
    return _in_float(node).name


def _layer_names(simulation: Simulation, region: str) -> dict[str, str]:
    """Node → the layer's name, of those of a region of which something is quantized."""
    layers = simulation.placement.layers
    return {x.node: x.name for x in layers if x.region == region and not x.reason}


def _in_float(node: fx.Node) -> fx.Node:
    """The node whose value a quantizer takes; any other node itself."""
    return node.all_input_nodes[0] if node.op == "call_module" else node
