"""Quantizers put into a copy of a region's graph."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

from torch import fx, nn

from subbyte.graph.float_model import FloatModel, shared
from subbyte.numerics.fake_quantize import BiasQuantize, Quantizer
from subbyte.placement.placement import Insertion, Placement, QuantizedBias, node_names

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
    for bias in placement.biases:
        if bias.region == region:
            _insert_bias(module, bias, nodes, quantizers)
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
