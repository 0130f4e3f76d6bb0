"""The regions of a detector by themselves, without the model's own code around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from subbyte.detectors.base import Deployment
from subbyte.detectors.common.copies import evaluating, sharing_copy
from subbyte.graph.float_model import Regional
from subbyte.utils.arguments import image_lists


class Chain(nn.Module):
    """The regions of a model, one after the other; inputs that no region gives are its inputs."""

    def __init__(self, model: nn.Module, captured: Regional) -> None:
        super().__init__()
        self.names, self.flow = captured.region_names, captured.flow
        self.regions = nn.ModuleList([model.get_submodule(name) for name in self.names])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The raw outputs: what the regions give that no other of them reads."""
        waiting, given, outputs = iter(inputs), dict[tuple[str, int], Any](), []
        for name, region in zip(self.names, self.regions, strict=True):
            places = [n for n in region.graph.nodes if n.op == "placeholder"]  # type: ignore[union-attr]
            leaves = []
            for i, node in enumerate(places):
                source = self.flow.links.get((name, i))
                tensor = isinstance(node.meta.get("val"), Tensor)
                leaves.append(given[source] if source else next(waiting) if tensor else None)
            args, kwargs = pytree.tree_unflatten(leaves, region._in_spec)  # type: ignore[arg-type]
            for i, leaf in enumerate(pytree.tree_leaves(region(*args, **kwargs))):
                given[name, i] = leaf
                if not self.flow.readers((name, i)) and isinstance(leaf, Tensor):
                    outputs.append(leaf)
        return tuple(outputs)


def chained(model: nn.Module, captured: Regional, args: tuple[Any, ...]) -> Deployment:
    """What to write of a detector of which no more than its regions is known.

    Args:
        model: The copy of the captured model to write.
        captured: The captured model; a copy of it runs on `args`.
        args: A batch's arguments.
    """
    inputs = _read(captured, _as_called(captured, args))
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    return Deployment(evaluating(Chain(model, captured)), inputs, shapes=(shapes,))


def _as_called(captured: Regional, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images as one tensor become a list, if that is how the model is called."""
    listed = bool(image_lists(captured.example))
    if listed and isinstance(args[0], Tensor) and args[0].dim() == 4:
        return (list(args[0]), *args[1:])
    return args


@torch.no_grad()
def _read(captured: Regional, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The tensors that the regions read in the model and that no other region gives."""
    copy = sharing_copy(captured.model)
    seen: dict[str, list[Any]] = {}
    for name in captured.region_names:

        def hook(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            seen[name] = pytree.tree_leaves((args, kwargs))

        copy.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
    copy(*args)
    return tuple(
        leaf
        for name in captured.region_names
        for i, leaf in enumerate(seen[name])
        if (name, i) not in captured.flow.links and isinstance(leaf, Tensor)
    )
