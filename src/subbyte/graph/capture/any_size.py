"""Whether what was captured of a model computes the same as the model at another batch size.

`torch.export` keeps some lengths as numbers without a word: of `int(x.shape[0] / 4.0)` it takes the
example's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.graph.batch import in_batch, leading

NOISE = 1e-4  # share of an output's energy that the order of sums can make up, of float graphs
WORSE = 10.0  # times the error that there is at the batch's own size


@torch.no_grad()
def depends_on_size(
    model: nn.Module,
    captured: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    noise: float = NOISE,
) -> bool:
    """Whether `captured` gives something else than `model` for another number of images.

    Both stay as they are, and so do random numbers. A model that does not take another number of
    images itself is not judged.

    Args:
        model: The model.
        captured: What was captured of it with `args`.
        args: Positional arguments for one batch.
        kwargs: Named arguments.
        noise: Share of an output's energy that counts as the same.
    """
    own = (args, dict(kwargs or {}))
    size = leading(own)
    if size is None:
        return False
    other = of_size(own, size, 2 if size > 3 else 2 * size + 1)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        for part in (model, captured):
            stack.callback(_restore, {value: value.clone() for value in part.buffers()})
        try:
            expected = _run(model, other)
        except Exception:  # it is the model's own: no captured form could do better
            return False
        try:
            error = distance(expected, _run(captured, other))
        except Exception:  # where the model runs
            return True
        return error > noise and error > WORSE * distance(_run(model, own), _run(captured, own))


def of_size(value: Any, size: int, images: int) -> Any:
    """Arguments with another number of images: their first ones, or all of them repeatedly.

    Args:
        value: Arguments in any structure.
        size: How many images they hold.
        images: How many there are to be.
    """
    numbers = [i % size for i in range(images)]
    return pytree.tree_map(lambda x: x[numbers] if in_batch(x, size) else x, value)


def distance(expected: Any, given: Any) -> float:
    """Energy of the error over that of what is expected, of the worst tensor; other shapes: 1."""
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(given), strict=True)
    return max((_distance(one, other) for one, other in pairs), default=0.0)


def _distance(expected: Any, given: Any) -> float:
    if not isinstance(expected, torch.Tensor) or not isinstance(given, torch.Tensor):
        return 0.0
    if expected.shape != given.shape:
        return 1.0
    if not expected.is_floating_point():
        return 0.0
    finite = expected.isfinite() & given.isfinite()
    expected, given = expected[finite].double(), given[finite].double()
    energy, error = expected.square().sum(), (expected - given).square().sum()
    return float(error / energy) if energy > 0 else float(error > 0)


def _run(run: Callable[..., Any], arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    args, kwargs = pytree.tree_map(
        lambda x: x.clone() if isinstance(x, torch.Tensor) else x, arguments
    )
    torch.manual_seed(0)
    return run(*args, **kwargs)


def _restore(before: Mapping[torch.Tensor, torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in before.items():
            tensor.copy_(value)
