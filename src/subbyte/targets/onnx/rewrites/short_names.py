"""Short names inside a file: each is written once for every node that reads it.

Half of a small network's file at 2 bits would be names. Inputs and outputs keep theirs, and what a
layer holds is still called after the layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

# What `neutral.py` and `own_operators.py` call what quantizers hold.
HELD = re.compile(
    r"(?:weight_(?P<weight>.+)|(?P<bias>bias_.+)|(?P<tensor>quantize_dequantize.*))"
    r"_(?P<part>integers|scale|zero_point)(?P<rest>_\w+)?"
)
PARTS = {"integers": "", "scale": "_s", "zero_point": "_z"}
TENSOR = "quantize_dequantize"


def shorten_names(model: ir.Model) -> None:
    """Number the nodes and what they give, and shorten the names of quantizers' constants."""
    graph = model.graph
    taken = {str(value.name) for value in (*graph.inputs, *graph.outputs)}
    for value in list(graph.initializers.values()):
        name = _short(str(value.name))
        if name != value.name and not value.is_graph_output():
            _rename(value, _free(name, taken | graph.initializers.keys()))
    taken |= set(_names(model))
    for number, node in enumerate(model.graph.all_nodes()):
        node.name = f"n{number}"
        for i, value in enumerate(node.outputs):
            if value.name and not value.is_graph_output():
                short = _short(str(value.name))  # of weights that are unpacked
                number_of_it = f"v{number}" if i == 0 else f"v{number}_{i}"
                value.name = _free(number_of_it if short == value.name else short, taken)
                taken.add(value.name)


def _names(model: ir.Model) -> Iterator[str]:
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in (*graph.inputs, *graph.initializers.values()):
            yield str(value.name)


def _short(name: str) -> str:
    found = HELD.fullmatch(name)
    if found is None:
        return name
    tensor = found["tensor"]
    of = found["weight"] or found["bias"] or f"q{tensor.removeprefix(TENSOR)}"
    return f"{of}{PARTS[found['part']]}{found['rest'] or ''}"


def _rename(value: ir.Value, name: str) -> None:
    """Rename a constant, whose content other forms of the model share under its old name."""
    tensor = value.const_value
    assert tensor is not None
    value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    value.name = name


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
