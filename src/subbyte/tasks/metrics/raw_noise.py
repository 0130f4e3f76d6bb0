"""The noise that quantization makes in a detector's raw outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from subbyte.graph.float_model import Regional
from subbyte.graph.flow import WHOLE

APART = 8.0  # columns of another kind are all larger, or all smaller, by at least this factor
COLUMNS = range(4, 513)  # how many an axis may have that is taken for one of columns

Energies = dict[int | None, np.ndarray]  # axis → signal and noise [2, columns]; None: of all values


@torch.no_grad()
def raw_noise(
    quantized: Regional, float_model: Regional, batches: Iterable[Mapping[str, Any]], device: str
) -> dict[str, Any]:
    """Energy of the float raw outputs over that of the error, in dB.

    Args:
        quantized: The simulation.
        float_model: The float model, of the same regions.
        batches: Each with a list of images as "inputs".
        device: Where both models lie.

    Returns:
        `sqnr_db` of all outputs together, which says little where their units differ;
        `sqnr_db_outputs` of each output by its name, or of each kind of columns in it; and
        `sqnr_db_worst`, the least of these. Each is `None` without any error. Where the outputs are
        not of the same shape, as of proposals, there are none.
    """
    found: list[Energies] | None = []
    names: list[str] = []
    for batch in batches:
        inputs = [image.to(device) for image in batch["inputs"]]
        outputs, exact = quantized.raw(inputs), float_model.raw(inputs)
        found = summed(found, energies_of(exact, outputs))
        names = names or names_of(float_model, exact)
    return decibels_of(names, found)


def energies_of(exact: Any, outputs: Any) -> list[Energies] | None:
    """Signal and noise of each raw output; `None` where they are not of the same shapes."""
    pairs = list(zip(_tensors(exact), _tensors(outputs), strict=False))
    if len(_tensors(exact)) != len(_tensors(outputs)) or any(x.shape != y.shape for x, y in pairs):
        return None
    return [_energies(x, y) for x, y in pairs]


def summed(a: list[Energies] | None, b: list[Energies] | None) -> list[Energies] | None:
    """Those of two batches together; an empty list adds nothing, `None` makes `None` of both."""
    if a is None or b is None:
        return None
    return [_added(*both) for both in zip(a, b, strict=True)] if a else b


def decibels_of(names: list[str], found: list[Energies] | None) -> dict[str, Any]:
    """What `raw_noise` returns, of the energies of all batches.

    Args:
        names: Of the outputs.
        found: Their energies; `None`: they cannot be compared.
    """
    if found is None:
        return {"sqnr_db": None, "sqnr_db_outputs": {}, "sqnr_db_worst": None}
    parts = {name: _decibels(its) for name, its in kinds_of(names, found).items()}
    together = sum((its[None] for its in found), np.zeros((2, 1)))
    return {
        "sqnr_db": _decibels(together),
        "sqnr_db_outputs": parts,
        "sqnr_db_worst": min((db for db in parts.values() if db is not None), default=None),
    }


def kinds_of(names: list[str], found: list[Energies]) -> dict[str, np.ndarray]:
    """Output, or each kind of columns in it → the energies of its columns, signal and noise."""
    return dict(kind for name, its in zip(names, found, strict=True) for kind in _kinds(name, its))


def _tensors(outputs: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(outputs) if _is_float(x)]


def _is_float(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def names_of(model: Regional, raw: Any) -> list[str]:
    """What the raw outputs are called: regions and keys, with dots between."""
    if model.region_names == WHOLE:
        return [_joined("", path) for path, x in _with_paths(raw) if _is_float(x)]
    names = []
    for region in model.region_names:
        spec = model.region(region)._out_spec
        places = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)  # type: ignore[arg-type, union-attr]
        for path, place in _with_paths(places):
            if not model.flow.readers((region, place)):
                names.append(_joined(region, path))
    leaves = pytree.tree_leaves(raw)
    return [name for name, x in zip(names, leaves, strict=True) if _is_float(x)]


def _with_paths(tree: Any) -> list[tuple[Any, Any]]:
    return pytree.tree_flatten_with_path(tree)[0]


def _joined(region: str, path: Any) -> str:
    keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
    return ".".join([*([region] if region else []), *keys]) or "output"


def _energies(exact: torch.Tensor, outputs: torch.Tensor) -> Energies:
    squares = [exact.double().square(), (exact.double() - outputs.double()).square()]
    axes = {axis for axis in (1, exact.dim() - 1) if axis > 0 and exact.shape[axis] in COLUMNS}
    found: Energies = {None: np.array([[float(x.sum())] for x in squares])}
    for axis in sorted(axes):
        others = [i for i in range(exact.dim()) if i != axis]
        found[axis] = torch.stack([x.sum(others) for x in squares]).cpu().numpy()
    return found


def _added(a: Energies, b: Energies) -> Energies:
    """The sums; an axis whose length changes from batch to batch is none of columns."""
    return {axis: a[axis] + b[axis] for axis in a if axis in b and a[axis].shape == b[axis].shape}


def _kinds(name: str, energies: Energies) -> Iterator[tuple[str, np.ndarray]]:
    """An output's name and energies; those of each kind where columns of an axis are of two."""
    cuts = {axis: _cut(energies[axis][0]) for axis in energies if axis is not None}
    axis = max(cuts, key=lambda axis: cuts[axis][0], default=None)
    if axis is None or cuts[axis][0] < APART:
        yield name, energies[None]
        return
    place = cuts[axis][1]
    before = ":, " * axis
    for low, high in ((0, place), (place, energies[axis].shape[1])):
        yield f"{name}[{before}{low}:{high}]", energies[axis][:, low:high]


def _cut(signal: np.ndarray) -> tuple[float, int]:
    """Where columns fall apart into two kinds, and by which factor their sizes differ there.

    All columns on one side are larger than all on the other one: boxes in pixels beside scores.
    """
    sizes = np.sqrt(signal)
    lows, highs = np.minimum.accumulate(sizes), np.maximum.accumulate(sizes)
    lows_behind = np.minimum.accumulate(sizes[::-1])[::-1]
    highs_behind = np.maximum.accumulate(sizes[::-1])[::-1]
    factors = []
    for place in range(1, len(sizes)):
        sides = ((lows[place - 1], highs_behind[place]), (lows_behind[place], highs[place - 1]))
        factors.append(max(float(large / small) if small > 0 else 0.0 for large, small in sides))
    best = int(np.argmax(factors))
    return factors[best], best + 1


def _decibels(energies: np.ndarray) -> float | None:
    signal, noise = energies.sum(1)
    return None if noise == 0 or signal == 0 else float(10 * np.log10(signal / noise))
