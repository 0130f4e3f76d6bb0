"""Quantizers put into a copy of a region's graph."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

from torch import fx, nn

from subbyte.graph.float_model import FloatModel, shared
from subbyte.graph.operators import LINEAR, MATMUL
from subbyte.numerics.fake_quantize import BiasQuantize, Quantizer
from subbyte.numerics.integer_sums import IntegerSums
from subbyte.placement.placement import (
    Insertion,
    NarrowSum,
    Placement,
    QuantizedBias,
    node_names,
)

QUANTIZERS = "subbyte_quantizers"  # the submodule of a region that holds its quantizers


def with_quantizers(
    float_model: FloatModel, region: str, placement: Placement, quantizers: Mapping[str, Quantizer]
) -> fx.GraphModule:
    """A copy of a region with the placement's quantizers in it.

    Its parameters share their memory with the float model's, but are tensors of their own. Nodes
    keep their names.

    Args:
        float_model: The model.
        region: The region's name.
        placement: Where quantizers stand.
        quantizers: Key → quantizer, of all regions.
    """
    source = float_model.region(region)
    module = fx.GraphModule(source, copy.deepcopy(source.graph))
    _unshare(module)
    module.add_submodule(QUANTIZERS, nn.Module())
    nodes = node_names(module.graph)
    paths: dict[str, str] = {}  # a quantizer of several tensors stands at one path
    for insertion in placement.insertions:
        if insertion.region == region:
            key = insertion.key
            if key not in paths:
                paths[key] = _path(nodes[insertion.node], paths.values())
                module.add_submodule(paths[key], quantizers[key])
            _insert(module, insertion, nodes, paths[key])
    sums = {found.node: found for found in placement.sums if found.region == region}
    for bias in placement.biases:
        # Where sums have a scale of their own, they round the bias to it themselves.
        exact = bias.node in sums and sums[bias.node].scale_bits is not None
        if bias.region == region and not exact:
            _insert_bias(module, bias, nodes, quantizers)
    for found in sums.values():
        _insert_sums(module, found, nodes[found.node], quantizers)
    module.graph.lint()
    module.recompile()
    module.training = False
    return module


def _unshare(module: nn.Module) -> None:
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = shared(tensor)  # type: ignore[assignment]


def _path(node: fx.Node, taken: Collection[str]) -> str:
    role = "weight" if node.op == "get_attr" else "activation"
    path = f"{QUANTIZERS}.{role}_{node.name}"
    while path in taken:  # a weight that two kinds of layers read
        path += "_"
    return path


def _insert(
    module: fx.GraphModule, insertion: Insertion, nodes: dict[str, fx.Node], path: str
) -> None:
    node = nodes[insertion.node]
    with module.graph.inserting_after(node):
        new = module.graph.call_module(path, (node,))
    new.meta = dict(node.meta)
    for name in insertion.readers:
        nodes[name].replace_input_with(node, new)


def _insert_bias(
    module: fx.GraphModule,
    bias: QuantizedBias,
    nodes: dict[str, fx.Node],
    quantizers: Mapping[str, Quantizer],
) -> None:
    layer, source = nodes[bias.node], nodes[bias.bias]
    path = f"{QUANTIZERS}.bias_{layer.name}"
    module.add_submodule(path, BiasQuantize(quantizers[bias.activation], quantizers[bias.weight]))
    with module.graph.inserting_before(layer):
        new = module.graph.call_module(path, (source,))
    new.meta = dict(source.meta)
    layer.args = (*layer.args[:2], new, *layer.args[3:])


def _insert_sums(
    module: fx.GraphModule, found: NarrowSum, node: fx.Node, quantizers: Mapping[str, Quantizer]
) -> None:
    """Put a module that computes with integers in the place of a layer."""
    flat = node.target in LINEAR | MATMUL
    sums = IntegerSums(
        node.target,  # type: ignore[arg-type]
        tuple(node.args[3:]),
        dict(node.kwargs),
        found.bits,
        (quantizers[found.activation], quantizers[found.weight]),
        axis=-1 if flat else 1,
        output=None if found.output is None else quantizers[found.output],
        scale_bits=found.scale_bits,
    )
    path = sums_path(node.name)
    module.add_submodule(path, sums)
    with module.graph.inserting_before(node):
        new = module.graph.call_module(path, tuple(node.args[:3]))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def sums_path(node: str) -> str:
    """Where the integer sums of the layer of a node stand in its region."""
    return f"{QUANTIZERS}.sums_{node}"
