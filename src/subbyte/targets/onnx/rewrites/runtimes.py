"""Quantizers that are there for one runtime alone, in a file for another."""

from __future__ import annotations

import onnx_ir as ir

from subbyte.targets.base import Rewrite
from subbyte.targets.onnx.domain import stands_for
from subbyte.targets.onnx.graph import prune
from subbyte.targets.onnx.qdq import qdq_nodes, settings


def only_for(runtime: str) -> Rewrite:
    """Leave out the Q/DQ that are there for other runtimes than this one."""

    def rewrite(model: ir.Model) -> None:
        for node in qdq_nodes(model):
            if not stands_for(settings(node).only_for, runtime):
                source = node.inputs[0]
                assert source is not None
                node.outputs[0].replace_all_uses_with(source, replace_graph_outputs=True)
        prune(model)

    return rewrite
