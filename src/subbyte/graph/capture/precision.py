"""Models in float16, bfloat16 or float64: what is captured of them is in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.capture.export import copied, try_model
from subbyte.graph.capture.place import complaint
from subbyte.utils.precision import as_float32


def in_float32(
    model: nn.Module, args: tuple[Any, ...]
) -> tuple[nn.Module, tuple[Any, ...], tuple[torch.dtype, ...] | None]:
    """A model in float32, with its arguments, and the types of the floats that it gave before.

    A model whose tensors are all in float32 is given back as it is, with `None`.

    Args:
        model: The user's model; it is left as it is.
        args: Its positional arguments for one batch.

    Raises:
        SubbyteError: The model does not run, or its copy in float32 does not.
    """
    types = {x.dtype for x in _tensors(model) if x.is_floating_point()} - {torch.float32}
    if not types:
        return model, args, None
    copy = copied(model)
    with torch.no_grad():
        given = pytree.tree_leaves(try_model(copy, args))
        args = as_float32(args)
        _convert(copy)
        try:
            copy(*args)
        except Exception as error:
            names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
            raise SubbyteError(
                f"the model holds {names}, and its copy in float32, of which integers are made, "
                f"does not run: {complaint(error)}; take the type of a tensor (x.dtype) where the "
                "code names one"
            ) from error
    floats = (x for x in given if isinstance(x, torch.Tensor) and x.is_floating_point())
    return copy, args, tuple(x.dtype for x in floats)


def _tensors(model: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers, and tensors that are attributes."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        for value in _attributes(module).values():
            yield from (x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor))


def _convert(model: nn.Module) -> None:
    model.float()
    for module in model.modules():
        for name, value in _attributes(module).items():
            if any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value)):
                setattr(module, name, as_float32(value))


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What the user's code keeps in a module beside parameters, buffers and submodules."""
    own = vars(nn.Module())
    return {name: value for name, value in vars(module).items() if name not in own}
