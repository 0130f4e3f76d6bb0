"""From a model to a graph of plain operators that runs at any batch size."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.batch import at_least_two, batch_size, in_batch, leading
from subbyte.graph.capture.any_size import depends_on_size
from subbyte.graph.capture.composites import find_composites_once
from subbyte.graph.capture.fourier import as_transforms
from subbyte.graph.capture.kept_shapes import keeps_shapes, shapes_forgotten
from subbyte.graph.capture.lengths import lengths_that_vary
from subbyte.graph.capture.passes.attention import split_attention
from subbyte.graph.capture.passes.batch_norm import fold_batch_norm
from subbyte.graph.capture.passes.biases import make_biases_plain
from subbyte.graph.capture.passes.constants import fold_constants
from subbyte.graph.capture.passes.einsum import write_products
from subbyte.graph.capture.passes.shared_weights import copy_shared_weights
from subbyte.graph.capture.passes.silu import split_silu
from subbyte.graph.capture.passes.tidy import tidy
from subbyte.graph.capture.place import (
    at,
    cannot_capture,
    complaint,
    first_line,
    fixed,
    fixes_batch,
    fresh,
    is_about_batch,
    is_about_sizes,
    quiet,
)
from subbyte.graph.capture.time_first import takes_time_first
from subbyte.graph.capture.unwritable import check_writable
from subbyte.utils.arguments import image_lists

KNOWN_VALUES = 64  # in a constant by which code may decide


def capture(model: nn.Module, args: tuple[Any, ...]) -> fx.GraphModule:
    """The model as a graph of functional ATen operators, in evaluation mode, batch norm folded.

    What depends on parameters only is computed here, once. `model` is left as it is, and parameters
    keep their qualified names. The first dimension of every tensor of the batch's size becomes
    dynamic, so that any batch size runs afterwards.

    Args:
        model: The user's model.
        args: Its positional arguments for one batch.

    Raises:
        SubbyteError: The model does not run on `args`, has NaN or infinity in its parameters, or
            `torch.export` cannot capture it (the message names the line of the user's code).
    """
    batch_size(args)  # an error, if there is no tensor
    model = copied(model)
    with torch.no_grad():
        _register_dataclasses(try_model(model, args))
        args = _doubled(model, args)
        return _plain(_export(model, tuple(args), {}, dynamic_shapes(model, args)))


def capture_part(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: dict[str, Any]
) -> fx.GraphModule:
    """A submodule as such a graph; its parameters are the module's own.

    Args:
        module: The submodule.
        args: Its positional arguments for one batch.
        kwargs: Its named arguments.
        shapes: Which dimensions are dynamic, by `shapes_by_name`.

    Raises:
        SubbyteError: `torch.export` cannot capture it.
    """
    with torch.no_grad():
        return _plain(_export(module, args, kwargs, shapes))


def copied(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode.

    Raises:
        SubbyteError: It cannot be copied, or has NaN or infinity in its parameters.
    """
    model = _copy(model).eval()
    _check_finite(model)
    return model


def _plain(module: fx.GraphModule) -> fx.GraphModule:
    """What was exported, made plain, batch norm folded."""
    check_writable(module.graph)
    tidy(module)
    write_products(module)
    fold_constants(module)
    split_attention(module)
    copy_shared_weights(module)
    make_biases_plain(module)
    fold_batch_norm(module)
    split_silu(module.graph)
    module.recompile()
    module.delete_all_unused_submodules()
    return module


def dynamic_shapes(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What `torch.export` needs to know: the first dimension of each tensor is the batch.

    The second one is of any size too where a layer takes that for the batch.
    """
    size, time_first = batch_size(args), takes_time_first(model, args)

    def shape(leaf: Any) -> dict[int, Any] | None:
        if not in_batch(leaf, size):
            return None
        dims: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
        if time_first and leaf.dim() == 3:
            dims[1] = torch.export.Dim.AUTO
        return dims

    shapes: tuple[Any, ...] = pytree.tree_map(shape, tuple(args))
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # *args count as one argument
        at = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        shapes = (*shapes[:at], shapes[at:])
    return shapes


def shapes_by_name(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], varying: list[set[int]]
) -> dict[str, Any]:
    """What `torch.export` needs to know of a submodule's arguments, by their names.

    Args:
        module: The submodule.
        args: Its positional arguments for one batch.
        kwargs: Its named arguments.
        varying: For each leaf of the arguments, which dimensions may be of any size beside the
            batch's.
    """
    size, numbers = leading((args, kwargs)), iter(varying)

    def shape(leaf: Any) -> Any:
        dims: dict[int, Any] = dict.fromkeys(next(numbers), torch.export.Dim.AUTO)
        if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == size:
            dims[0] = torch.export.Dim.DYNAMIC
        return dims or None

    args, kwargs = pytree.tree_map(shape, (args, kwargs))
    signature = inspect.signature(module.forward)
    named = dict(signature.bind(*args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(parameter.name, {}))
    return named


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> fx.GraphModule:
    """A model as `torch.export` gives it, with functional operators.

    Args:
        model: The model.
        args: Its positional arguments for one batch.
        kwargs: Its named arguments.
        shapes: What is dynamic.
    """
    find_composites_once()
    try:
        program = _program(model, args, kwargs, shapes)
    except Exception as error:
        if is_about_batch(error):
            raise SubbyteError(fixes_batch(model, args, kwargs, shapes)) from error
        raise SubbyteError(cannot_capture(model, error)) from error
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    if not image_lists(args) and depends_on_size(model, module, args, kwargs):
        raise SubbyteError(fixes_batch(model, args, kwargs, shapes))
    return module


def _program(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> torch.export.ExportedProgram:
    """What `torch.export` gives; of a model that keeps shapes, where these fix the batch, without.

    Args:
        model: The model.
        args: Its positional arguments for one batch.
        kwargs: Its named arguments.
        shapes: What is dynamic.
    """

    def exported(varying: Any = shapes) -> torch.export.ExportedProgram:
        inputs, named = fresh((args, kwargs))
        program = torch.export.export(model, inputs, named, dynamic_shapes=varying)
        # A table without an operator does not decompose it; in-place ones become functional.
        plain: torch.export.ExportedProgram = program.run_decompositions(as_transforms())
        return plain

    with quiet(), known_constants(), lengths_that_vary(model):
        try:
            return exported()
        except Exception as error:
            if is_about_sizes(error) and (fixed_sizes := _of_batch(shapes)) != shapes:
                with shapes_forgotten(model):
                    return exported(fixed_sizes)
            if not (is_about_batch(error) and keeps_shapes(model)):
                raise
        with shapes_forgotten(model):
            return exported()


def _of_batch(shapes: Any) -> Any:
    """What is dynamic, without dimensions beside the batch's."""
    if isinstance(shapes, dict) and all(isinstance(key, int) for key in shapes):
        kept = {d: dim for d, dim in shapes.items() if dim is torch.export.Dim.DYNAMIC}
        return kept or None
    if isinstance(shapes, dict):
        return {key: _of_batch(value) for key, value in shapes.items()}
    if isinstance(shapes, list | tuple):
        return type(shapes)(_of_batch(value) for value in shapes)
    return shapes


@contextlib.contextmanager
def known_constants() -> Iterator[None]:
    """Let code decide by small constants that it makes itself, such as a mean for each channel.

    `torch.export` knows the value of constants of one element alone. Where it has that limit
    elsewhere, in another version, such code is refused.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            tensors: Any = import_module("torch._subclasses.fake_tensor")
            before = tensors.CONSTANT_NUMEL_LIMIT
            tensors.CONSTANT_NUMEL_LIMIT = max(before, KNOWN_VALUES)
            stack.callback(setattr, tensors, "CONSTANT_NUMEL_LIMIT", before)
        yield


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise SubbyteError(
            f"the model cannot be copied: {first_line(error)}; quantize it in the state in which "
            "copy.deepcopy takes it (weight norm removed, no hooks that hold tensors)"
        ) from error


def _doubled(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """At least two images, on which the model must run if it runs on one."""
    doubled = at_least_two(args)
    if doubled is not args:
        try:
            model(*doubled)
        except Exception as error:
            raise SubbyteError(fixed(at(error), 1)) from error
    return doubled


def _register_dataclasses(outputs: Any) -> None:
    """Let `torch.export` look into the dataclasses that a model returns."""
    unknown = {type(leaf) for leaf in pytree.tree_leaves(outputs) if is_dataclass(leaf)}
    for kind in unknown - {type}:
        torch.export.register_dataclass(kind)
    if unknown:
        _register_dataclasses(outputs)  # those inside


def try_model(model: nn.Module, args: tuple[Any, ...]) -> Any:
    """Run a model on `args`; its outputs. Raises `SubbyteError` if it does not run."""
    reason = mismatch(model, args)
    if reason is not None:
        raise SubbyteError(
            f"{reason}: give each batch as a tuple of the model's positional arguments"
        )
    try:
        return model(*args)
    except Exception as error:
        shapes = [tuple(x.shape) for x in pytree.tree_leaves(args) if isinstance(x, torch.Tensor)]
        raise SubbyteError(
            f"the model does not run on a batch of shape {', '.join(map(str, shapes))}: "
            f"{complaint(error)}; give batches of the size and kind that the model takes"
        ) from error


def mismatch(model: nn.Module, args: tuple[Any, ...]) -> str | None:
    """What is wrong with the number of arguments, the model's inputs by name; `None`: nothing."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args)
    except TypeError:
        empty = inspect.Parameter.empty
        names = [
            ("*, " if p.kind is p.KEYWORD_ONLY else "")
            + (p.name if p.default is empty else f"{p.name}={p.default}")
            for p in signature.parameters.values()
        ]
        return f"the model takes the inputs ({', '.join(names)}), and a batch gives {len(args)}"
    return None


def _check_finite(model: nn.Module) -> None:
    """Refuse NaN and infinity; a buffer may hold minus infinity, with which masks hide."""
    parameters = [(name, value.detach()) for name, value in model.named_parameters()]
    masks = [(name, torch.where(x == -math.inf, 0, x)) for name, x in model.named_buffers()]
    for name, value in parameters + masks:
        if value.is_floating_point() and not torch.isfinite(value).all():
            layer, _, attribute = name.rpartition(".")
            of = f"{attribute} of layer '{layer}'" if layer else f"model's own '{attribute}'"
            raise SubbyteError(
                f"the {of} holds NaN or infinity: "
                "train or load the model again before quantizing it"
            )
