"""SiLU written as the product that it is."""

from __future__ import annotations

from torch import fx

from subbyte.graph.operators import A


def split_silu(graph: fx.Graph) -> None:
    """Write x · sigmoid(x) as the product that it is, whose factors can be quantized."""
    for node in [n for n in graph.nodes if n.target is A.silu.default]:
        with graph.inserting_before(node):
            gate = graph.call_function(A.sigmoid.default, (node.args[0],))
            product = graph.call_function(A.mul.Tensor, (node.args[0], gate))
        gate.meta, product.meta = dict(node.meta), dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
