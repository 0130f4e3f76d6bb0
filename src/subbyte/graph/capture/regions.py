"""Regions: submodules of a model that become graphs, in place, while the rest stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError, unknown
from subbyte.graph.batch import leading
from subbyte.graph.capture.export import (
    capture,
    capture_part,
    copied,
    shapes_by_name,
    try_model,
)
from subbyte.graph.capture.passes.frozen_batch_norm import thaw
from subbyte.graph.capture.place import complaint
from subbyte.graph.capture.unwritable import UnwritableError
from subbyte.graph.flow import WHOLE, Flow, Place
from subbyte.utils.arguments import image_lists

LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.Linear,
    nn.MultiheadAttention,
)


@dataclass(frozen=True)
class CapturedRegions:
    """A copy of a model with its regions captured.

    Attributes:
        model: The copy, in which the regions are graph modules.
        regions: Their qualified names, in the order in which they run.
        flow: How tensors go from region to region.
    """

    model: nn.Module
    regions: tuple[str, ...]
    flow: Flow


@dataclass
class _Call:
    """One run of a region: the tensors themselves that it got and gave.

    Attributes:
        args: Its positional arguments.
        kwargs: Its named arguments.
        others: How many other regions had given something before.
        outputs: What it gave.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    others: int
    outputs: Any = None

    @property
    def leaves(self) -> list[Any]:
        return pytree.tree_leaves((self.args, self.kwargs))


def capture_regions(
    model: nn.Module, args: tuple[Any, ...], names: tuple[str, ...] | None
) -> CapturedRegions:
    """A copy of a model in which its regions are graphs.

    Args:
        model: It is left as it is.
        args: Its arguments for one batch.
        names: The regions' qualified names. `None`: the whole model where it can be captured, and
            else the largest submodules that can: tensors in, tensors out, and a convolution or a
            linear layer inside. A model that returns one matrix, as a classifier does, is captured
            whole or not at all.

    Raises:
        SubbyteError: A region does not exist, does not run, runs in different ways, or cannot be
            captured; it is named.
    """
    if names is None:
        return _found(model, args)
    if tuple(names) == WHOLE:
        return CapturedRegions(capture(model, args), WHOLE, Flow())
    _check_names(model, names)
    copy = copied(model)
    thaw(copy)
    calls = _recorded(copy, args, names)
    for name in names:
        if not calls[name]:
            raise SubbyteError(
                f"the region '{name}' does not run when the model does: name the submodule whose "
                "forward the model calls"
            )
    graphs = {name: _captured(copy, name, calls[name]) for name in names}
    return _swapped(copy, args, graphs, calls)


def _check_names(model: nn.Module, names: Iterable[str]) -> None:
    present = [name for name, _ in model.named_modules() if name]
    names = list(names)
    if not names:
        raise SubbyteError("regions is empty: name submodules, or leave it out")
    for name in names:
        if name not in present:
            raise unknown("region", name, present)
        inside = [other for other in names if other.startswith(f"{name}.")]
        inside += [name] * (names.count(name) > 1)
        if inside:
            raise SubbyteError(
                f"the region '{inside[0]}' is part of the region '{name}': name one of them"
            )


def _recorded(
    model: nn.Module, args: tuple[Any, ...], names: Iterable[str]
) -> dict[str, list[_Call]]:
    """What each of the submodules `names` gets and gives, in the order in which they first run."""
    calls: dict[str, list[_Call]] = {}
    finished: set[str] = set()

    def before(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            others = len(finished - {name})
            calls.setdefault(name, []).append(_Call(args, kwargs, others))

        return hook

    def after(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, outputs: Any) -> None:
            finished.add(name)
            calls[name][-1].outputs = outputs

        return hook

    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            handle = module.register_forward_pre_hook(before(name), with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(module.register_forward_hook(after(name)).remove)
        with torch.no_grad():
            try_model(model, args)
    return {**calls, **{name: [] for name in names if name not in calls}}


def _captured(model: nn.Module, name: str, calls: list[_Call]) -> Any:
    try:
        first = calls[0]
        kinds = [pytree.tree_structure((call.args, call.kwargs)) for call in calls]
        ranks = [[x.dim() if _is_tensor(x) else x for x in call.leaves] for call in calls]
        if any(kind != kinds[0] for kind in kinds) or any(rank != ranks[0] for rank in ranks):
            raise SubbyteError(
                "it runs several times, with arguments of different kinds: name parts of it"
            )
        args, kwargs = _at_least_two((first.args, first.kwargs))
        module = model.get_submodule(name)
        shapes = shapes_by_name(module, args, kwargs, _varying(calls))
        return capture_part(module, args, kwargs, shapes)
    except SubbyteError as error:
        raise SubbyteError(f"the region '{name}' cannot be captured: {error}") from error


def _varying(calls: list[_Call]) -> list[set[int]]:
    """For each tensor that a region gets, which dimensions may be of any size beside the batch's.

    Height and width of images, and what differs from run to run.
    """
    found = []
    for leaves in zip(*(call.leaves for call in calls), strict=True):
        if not _is_tensor(leaves[0]):
            found.append(set[int]())
            continue
        images = range(2, leaves[0].dim()) if leaves[0].dim() == 4 else range(0)
        differ = [d for d in range(leaves[0].dim()) if len({x.shape[d] for x in leaves}) > 1]
        found.append({*images, *differ})
    return found


def _at_least_two(value: Any) -> Any:
    """Arguments of a region with a batch of one doubled."""
    if leading(value) != 1:
        return value
    return pytree.tree_map(
        lambda x: torch.cat([x, x]) if _is_tensor(x) and x.dim() and len(x) == 1 else x, value
    )


def _swapped(
    model: nn.Module, args: tuple[Any, ...], graphs: dict[str, Any], calls: dict[str, list[_Call]]
) -> CapturedRegions:
    order = tuple(name for name in calls if name in graphs)
    flow = _flow(order, calls, args)
    for name, graph in graphs.items():
        model.set_submodule(name, graph)
    try:
        with torch.no_grad():
            model(*args)
    except Exception as error:
        raise SubbyteError(
            f"the model does not run any more with {', '.join(order)} captured: "
            f"{complaint(error)}; name regions that it does nothing but call"
        ) from error
    return CapturedRegions(model, order, flow)


def _flow(order: tuple[str, ...], calls: dict[str, list[_Call]], args: tuple[Any, ...]) -> Flow:
    own = {id(leaf) for leaf in pytree.tree_leaves(args)}
    given: dict[int, Place] = {}  # which output a tensor is, by its id: all of them are alive
    links: dict[Place, Place] = {}
    inner: set[Place] = set()
    for name in order:
        for call in calls[name]:
            for i, leaf in enumerate(call.leaves):
                if not _is_tensor(leaf) or id(leaf) in own:
                    continue
                if call.others:
                    inner.add((name, i))
                if id(leaf) in given and len(calls[name]) == 1:
                    links[name, i] = given[id(leaf)]
        if len(calls[name]) == 1:
            for i, leaf in enumerate(pytree.tree_leaves(calls[name][0].outputs)):
                given[id(leaf)] = (name, i)
    return Flow(links, frozenset(inner))


def _found(model: nn.Module, args: tuple[Any, ...]) -> CapturedRegions:
    """The whole model, or the largest of its submodules that can be captured."""
    refusal: SubbyteError | None = None
    if not image_lists(args):
        try:
            return CapturedRegions(capture(model, args), WHOLE, Flow())
        except UnwritableError:
            raise  # the code around its regions could not be written either
        except SubbyteError as error:
            refusal = error
    copy = copied(model)
    thaw(copy)
    with torch.no_grad():
        try_model(copy, args)
        if refusal is not None and _is_matrix(copy(*args)):
            raise refusal
    every = [name for name, module in copy.named_modules() if name and _has_layers(module)]
    calls = _recorded(copy, args, every)
    graphs: dict[str, Any] = {}
    for name in every:  # each before what is inside it
        if any(name.startswith(f"{other}.") for other in graphs) or not _takes_tensors(calls[name]):
            continue
        try:
            graphs[name] = _captured(copy, name, calls[name])
        except SubbyteError as error:
            refusal = refusal or error
    if not graphs:
        raise refusal or SubbyteError(
            "the model has no submodule that takes and gives tensors and holds a convolution or a "
            "linear layer: name its regions, or leave it in float"
        )
    return _swapped(copy, args, graphs, calls)


def _is_matrix(outputs: Any) -> bool:
    """Whether outputs are one matrix, as a classifier's are."""
    return isinstance(outputs, torch.Tensor) and outputs.dim() == 2


def _has_layers(module: nn.Module) -> bool:
    return any(isinstance(part, LAYERS) for part in module.modules())


def _takes_tensors(calls: list[_Call]) -> bool:
    """Whether a submodule runs, and every time gets and gives tensors alone (and numbers)."""
    plain = (torch.Tensor, int, float, bool, str, type(None))
    leaves = [leaf for call in calls for leaf in [*call.leaves, *pytree.tree_leaves(call.outputs)]]
    given = [leaf for call in calls for leaf in pytree.tree_leaves(call.outputs)]
    return (
        bool(calls)
        and any(_is_tensor(leaf) for call in calls for leaf in call.leaves)
        and any(_is_tensor(leaf) for leaf in given)
        and all(isinstance(leaf, plain) for leaf in leaves)
    )


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)
