"""Operators that take the place of one in a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from subbyte.graph.operators import add_constant


@dataclass
class Parts:
    """Puts operators in front of `node`, each with the value that it has on the example."""

    module: fx.GraphModule
    node: fx.Node

    def call(self, target: Any, *args: Any) -> fx.Node:
        """A call of an operator."""
        with self.module.graph.inserting_before(self.node):
            new = self.module.graph.call_function(target, args)
        new.meta = dict(self.node.meta)
        new.meta["val"] = target(*fx.node.map_arg(args, lambda n: n.meta["val"]))
        return new

    def constant(self, name: str, value: torch.Tensor) -> fx.Node:
        """A buffer with this value."""
        return add_constant(self.module, self.node, f"{self.node.name}_{name}", value)
