"""Where in the user's code something went wrong, and what, in one line."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

SHAPING = {"view", "reshape", "expand", "zeros", "ones", "full", "empty", "rand", "randn"}
# Code that is not the user's: Subbyte's, PyTorch's, and Python's own library.
FOREIGN = (
    str(Path(__file__).parents[2]),
    os.path.dirname(torch.__file__),
    sysconfig.get_path("stdlib"),
    "<",
)
SHAPES_LOG = "torch.fx.experimental.symbolic_shapes"  # says what fixes a length, and when


def complaint(error: BaseException) -> str:
    """The error of a model that failed, in one line, with the line of its code."""
    return f"{first_line(error)}{at(error)}"


def cause(error: BaseException) -> str:
    """The first line of the error that began it all, with what cannot be printed left out."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = first_line(error)
    return "".join(character for character in line if character.isprintable())


def first_line(error: BaseException) -> str:
    """What an error says first; its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:;!") if lines else type(error).__name__


def at(error: BaseException, model: nn.Module | None = None) -> str:
    """Where an error arose: in the user's own code, or else in which module of `model`.

    It begins with a space; where nothing is known it is empty.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = [line for _, line in traceback.walk_tb(error.__traceback__)]
    return _place(zip(frames, lines, strict=True), model)


def cannot_capture(model: nn.Module, error: Exception) -> str:
    """The sentence for a model that `torch.export` gave up on."""
    place = at(error, model)
    module = " in the module '" in place
    rewrite = "replace that module by one that" if module else "rewrite that line so that it"
    return (
        f"torch.export cannot capture the model{place}: {first_line(error)}; {rewrite} "
        "does not depend on a tensor's values (torch.where instead of if, no .item())"
    )


def fixes_batch(model: nn.Module, args: tuple[Any, ...], kwargs: Any, shapes: Any) -> str:
    """The sentence for a model whose code holds the batch size as a number, with the place.

    Args:
        model: The model.
        args: Its positional arguments for one batch.
        kwargs: Its named arguments.
        shapes: Which dimensions are dynamic, as `torch.export` is told.
    """
    found = _listened(model, args, kwargs, shapes)
    size = next(x.shape[0] for x in pytree.tree_leaves((args, kwargs)) if _has_length(x))
    return fixed(found.place or _in_static_graph(model, args, kwargs, size) or found.decides, size)


def fresh(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of the tensors: `torch.export` leaves marks on those that it is given."""
    copies: tuple[Any, ...] = pytree.tree_map(
        lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x, args
    )
    return copies


def is_about_batch(error: BaseException | None) -> bool:
    """Whether an exporter gave up because the batch size is a number in the code."""
    said = ("specialized", "inferred to be a constant", "user-specified ranges")
    while error is not None:
        if any(text in str(error) for text in said):
            return True
        error = error.__cause__
    return False


def is_about_sizes(error: Exception) -> bool:
    """Whether an exporter gave up because code asks more of sizes than it can leave open.

    SymPy does not solve every inequality of heights and widths, and a size that is open cannot be
    a key, as in a cache of position embeddings.
    """
    if isinstance(error, NotImplementedError):
        return True
    return isinstance(error, TypeError) and "unhashable type" in str(error) and "Sym" in str(error)


def fixed(place: str, size: int) -> str:
    """The sentence that the code at `place` fixes the batch to `size`."""
    return (
        f"torch.export cannot capture the model with a dynamic batch, because its code{place} "
        f"fixes the batch size to {size}: write x.shape[0] or -1 instead of the number or len(x), "
        "and // instead of a division of floats"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's own log of what it could not trace, which the error repeats."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class _Listener(logging.Handler):
    """Keeps where the first length of a batch became a number, as `torch.export` logs it.

    Attributes:
        model: What is captured.
        symbols: What the log calls first lengths of inputs.
        place: Where one of them was first taken for a number.
        decides: Where code first asked something of one of them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(logging.INFO)
        self.model, self.symbols = model, list[str]()
        self.place = self.decides = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Look at one message, and at who is running while it is sent."""
        text = record.getMessage()
        made = re.match(r"create_symbol (s\d+) = \d+ for .*\.size\(\)\[0\]", text)
        if made:
            self.symbols.append(made[1])
        found = re.match(r"eval (.*) \[guard added\]", text)
        if found and set(re.findall(r"s\d+", found[1])) & set(self.symbols):
            place = re.sub(r"^( at .*?:\d+) \(.*", r"\1", _place(_running(), self.model))
            self.decides = self.decides or place
            if re.fullmatch(r"Eq\(.*, \d+\)", found[1]):
                self.place = self.place or place


def _listened(model: nn.Module, args: tuple[Any, ...], kwargs: Any, shapes: Any) -> _Listener:
    """What `torch.export` says of the length of the batch while it captures a model."""
    logger, listener = logging.getLogger(SHAPES_LOG), _Listener(model)
    handlers, level = logger.handlers, logger.level
    logger.handlers = [listener]
    logger.setLevel(logging.INFO)
    try:
        with quiet():
            logging.disable(logging.NOTSET)
            inputs, named = fresh((args, kwargs))
            torch.export.export(model, inputs, named, dynamic_shapes=shapes)
    except Exception:
        return listener  # the very error that is to be explained
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    return listener


def _in_static_graph(model: nn.Module, args: tuple[Any, ...], kwargs: Any, size: int) -> str:
    """Which line gives a tensor the length `size`: found in a graph without dynamic lengths."""
    inputs, named = fresh((args, kwargs))
    try:
        with quiet():
            graph = torch.export.export(model, inputs, named).graph
    except Exception:
        return ""  # then there is no place to name
    for node in graph.nodes:
        if node.op == "call_function" and _shapes_to(node, size):
            lines = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
            if lines:
                return f" at {lines[-1][0]}:{lines[-1][1]}"
    return ""


def _shapes_to(node: fx.Node, size: int) -> bool:
    """Whether a node gives a tensor a shape whose first length is the number `size`."""
    name = str(getattr(node.target, "__name__", "")).split(".")[0]
    shapes = [a for a in node.args if isinstance(a, list | tuple) and a]
    return name in SHAPING and any(shape[0] == size for shape in shapes)


def _running() -> list[tuple[FrameType, int]]:
    """The frames that run now, from the last one of this file on, the innermost last."""
    found: list[tuple[FrameType, int]] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != __file__:
        found.append((frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def _place(frames: Iterable[tuple[FrameType, int]], model: nn.Module | None) -> str:
    """The last line of the user's code among frames, or else the last module of `model`."""
    names = {} if model is None else {id(part): name for name, part in model.named_modules()}
    line, module = "", ""
    for frame, number in frames:
        file, own = frame.f_code.co_filename, frame.f_locals.get("self")
        inside = file.startswith(FOREIGN) or "site-packages" in file
        if not inside:
            line = f" at {file}:{number} ({linecache.getline(file, number).strip()})"
        elif isinstance(own, nn.Module) and names.get(id(own)):
            module = f" in the module '{names[id(own)]}' ({type(own).__name__})"
    return line or module


def _has_length(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0
