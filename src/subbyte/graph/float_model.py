"""`FloatModel`: a model as it was captured, once, and never written to."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from subbyte.graph.flow import WHOLE, Flow
from subbyte.graph.layers import FoundLayer, find_layers
from subbyte.graph.output_loss import OutputLoss, loss_of_outputs
from subbyte.utils.precision import as_float32


class Regional(Protocol):
    """A model whose regions are graphs, in float or simulated."""

    @property
    def model(self) -> nn.Module:
        """The user's structure with the regions in it."""
        ...

    @property
    def region_names(self) -> tuple[str, ...]:
        """The regions' qualified names, in the order in which they run; ("",): the whole model."""
        ...

    @property
    def flow(self) -> Flow:
        """How tensors go from region to region."""
        ...

    @property
    def example(self) -> tuple[Any, ...]:
        """A batch's arguments, with tensors that have a shape and a type and no memory."""
        ...

    def region(self, name: str) -> fx.GraphModule:
        """The graph module of a region."""
        ...

    def raw(self, *args: Any) -> Any:
        """What the regions give that no other of them reads."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as its user would."""
        ...


@dataclass(frozen=True, eq=False)
class FloatModel:
    """A model whose regions are graphs of plain operators, batch norm folded.

    It is called as the model was. Nothing writes to its parameters.

    Attributes:
        original: The user's own model, or its copy in float32.
        model: A copy of its structure in which the regions are graph modules.
        region_names: The regions, in the order in which they run; ("",) is the whole model.
        flow: How tensors go from region to region.
        layers: Region → its convolutions, linear layers and matrix products.
        example: Arguments of a batch, with tensors that have a shape and a type and no memory.
        signature: Of the user's model.
        fingerprints: A hash of each floating-point tensor as it was captured, by its name.
        output_types: Of the floats that the user's model gives, where its own tensors are not all
            in float32; `None` elsewhere. This one computes and gives float32.
        factors: By what channels were divided to have like ranges, as `graph.balance` says.
        output_loss: What an error in its raw outputs costs.
    """

    original: nn.Module
    model: nn.Module
    region_names: tuple[str, ...]
    flow: Flow
    layers: Mapping[str, tuple[FoundLayer, ...]]
    example: tuple[Any, ...]
    signature: inspect.Signature
    fingerprints: Mapping[str, str]
    output_types: tuple[torch.dtype, ...] | None = None
    factors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    output_loss: OutputLoss = field(default_factory=loss_of_outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FloatModel:
        """Itself: nothing changes it, so that copies of what is made from it can share it."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as its user would."""
        return called(self.model, self.signature, *self.arguments(args, kwargs))

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """What its graphs take of the user's arguments: floats in float32."""
        return (args, kwargs) if self.output_types is None else as_float32((args, kwargs))

    def raw(self, *args: Any) -> Any:
        """What the regions give that no other of them reads, in the order in which they run."""
        return raw_outputs(self, *args)

    def region(self, name: str) -> fx.GraphModule:
        """The graph module of a region."""
        return region_of(self.model, name)

    @property
    def layer_names(self) -> list[str]:
        """The layers' qualified names."""
        return [
            qualified(region, layer.name) for region, its in self.layers.items() for layer in its
        ]

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return device_of(self.model)


def rewritten(
    float_model: FloatModel, rewrite: Callable[[str, fx.GraphModule], None]
) -> FloatModel:
    """The same model with other regions; the one that is given is left as it is.

    Args:
        float_model: The model.
        rewrite: Changes a copy of a region in place, given the region's name too.
    """
    regions = {}
    for name in float_model.region_names:
        region = float_model.region(name)
        regions[name] = fx.GraphModule(region, copy.deepcopy(region.graph))
        rewrite(name, regions[name])
        regions[name].graph.lint()
        regions[name].recompile()
    layers = {name: tuple(find_layers(region.graph)) for name, region in regions.items()}
    return replace(float_model, model=structure_of(float_model.model, regions), layers=layers)


def called(
    model: nn.Module,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run a model whose graph takes its arguments by position.

    Args:
        model: The model whose regions are graphs.
        signature: Of the user's model, by which named arguments find their position.
        args: Positional arguments.
        kwargs: Named arguments.
    """
    if kwargs:
        bound = signature.bind(*args, **kwargs)
        args, kwargs = bound.args, bound.kwargs
    return model(*args, **kwargs)


def region_of(model: nn.Module, name: str) -> fx.GraphModule:
    """The graph module that stands at `name`."""
    module = model.get_submodule(name)
    assert isinstance(module, fx.GraphModule)
    return module


def qualified(region: str, name: str) -> str:
    """The user's name of what is called `name` in a region, which may be a layer itself."""
    if region and name == "weight":
        return region
    return f"{region}.{name}" if region else name


def parameter_name(region: str, target: str) -> str:
    """The qualified name of the parameter `target` of a region."""
    return f"{region}.{target}" if region else target


def raw_outputs(model: Regional, *args: Any) -> Any:
    """What the regions give that no other of them reads, in the order in which they run.

    Of a whole model these are its outputs; of a detector what its heads give, before boxes are made
    of it.
    """
    if model.region_names == WHOLE:
        return model(*args)
    given: list[Any] = []

    def keeper(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, outputs: Any) -> None:
            leaves = enumerate(pytree.tree_leaves(outputs))
            given.extend(x for i, x in leaves if not model.flow.readers((name, i)))

        return keep

    with ExitStack() as stack:
        for name in model.region_names:
            handle = model.region(name).register_forward_hook(keeper(name))
            stack.callback(handle.remove)
        model(*args)
    return tuple(given)


@contextmanager
def interpreted(region: fx.GraphModule, interpreter: fx.Interpreter) -> Iterator[None]:
    """While it lasts, `interpreter` runs a region node by node."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        outputs = interpreter.run(*leaves, enable_io_processing=False)
        return region.graph.process_outputs(outputs)

    region.__dict__["forward"] = forward
    try:
        yield
    finally:
        del region.__dict__["forward"]


def structure_of(model: nn.Module, regions: Mapping[str, fx.GraphModule]) -> nn.Module:
    """A copy of a model's structure with other modules in the place of its regions.

    Parameters and buffers share their memory with the model's, but are tensors of their own, so
    that one can be moved or replaced without the other.

    Args:
        model: A model in which the regions are graph modules.
        regions: Name → what is to stand there.
    """
    if tuple(regions) == WHOLE:
        return regions[""]
    memo: dict[int, Any] = {id(region_of(model, name)): region for name, region in regions.items()}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo.setdefault(id(tensor), shared(tensor))
    return copy.deepcopy(model, memo)


def with_types(value: Any, types: Sequence[torch.dtype]) -> Any:
    """Tensors of floats in these types, one after the other.

    Where there are not as many floats as types, all get the first one.
    """
    leaves, structure = pytree.tree_flatten(value)
    floats = [
        i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor) and x.is_floating_point()
    ]
    if types and len(floats) != len(types):
        types = [types[0]] * len(floats)
    for i, kind in zip(floats, types, strict=False):
        leaves[i] = leaves[i].to(kind)
    return pytree.tree_unflatten(leaves, structure)


def shared(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor with the same memory."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=False)
    return tensor.detach()


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first tensor lies; the CPU for a model without any."""
    for tensor in [*model.parameters(), *model.buffers()]:
        return tensor.device
    return torch.device("cpu")
