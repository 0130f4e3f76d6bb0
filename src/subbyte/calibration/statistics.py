"""Statistics of the float model's activations: collected on images, or read from Distiller's file.

Two passes over the images: moments are exact, not those of a histogram.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import fx, nn

from subbyte.errors import SubbyteError, unknown
from subbyte.graph.float_model import FloatModel, interpreted
from subbyte.numerics.qparams import TensorQParams
from subbyte.numerics.statistics import Statistics, qparams_by
from subbyte.placement.placement import Observed, Placement, QuantizedTensor
from subbyte.utils.progress import Progress
from subbyte.utils.tagged_yaml import load_tagged

Batches = Iterable[tuple[Any, ...]]
Node = tuple[str, str]  # a region, and the name of a node in it
FIELDS = {
    "low": "min",
    "high": "max",
    "mean_low": "avg_min",
    "mean_high": "avg_max",
    "mean": "mean",
    "deviation": "std",
    "mean_deviation": "b",
}


def ranges_by_statistics(
    float_model: FloatModel, placement: Placement, batches: Batches, progress: Progress
) -> dict[str, TensorQParams]:
    """The parameters of all activations whose grid is chosen by statistics.

    Args:
        float_model: The model, of whose values the statistics are.
        placement: What is quantized; its recipe may name a file with the statistics.
        batches: The calibration images.
        progress: Shows how far it is.

    Raises:
        SubbyteError: An activation holds NaN or infinity, or the file lacks what is needed.
    """
    tensors = [t for t in placement.of_role("activation") if t.grid is not None]
    if not tensors:
        return {}
    if placement.recipe.statistics is not None:
        found = read_statistics(Path(placement.recipe.statistics), float_model, tensors)
    else:
        found = _collected(float_model, tensors, batches, progress)
    params = {}
    for tensor in tensors:
        assert tensor.grid is not None
        assert tensor.observed is not None
        statistics = found.get(tensor.key)
        if statistics is None:  # it never ran
            one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
            params[tensor.key] = TensorQParams(one, zero)
            continue
        if tensor.observed.limits is not None:
            statistics = statistics.within(*tensor.observed.limits)
        if tensor.grid.clip == "laplace" and math.isnan(statistics.mean_deviation):
            raise SubbyteError(
                f"{placement.recipe.statistics} lacks b of '{tensor.layer}', which clip 'laplace' "
                "needs: collect statistics again"
            )
        params[tensor.key] = qparams_by(statistics, tensor.grid)
    return params


def _collected(
    float_model: FloatModel, tensors: list[QuantizedTensor], batches: Batches, progress: Progress
) -> dict[str, Statistics]:
    nodes: dict[str, Node] = {}
    for tensor in tensors:
        assert tensor.observed is not None
        nodes[tensor.key] = (tensor.region, tensor.observed.node)
    found = collect(float_model, set(nodes.values()), batches, progress)
    return {key: found[node] for key, node in nodes.items() if node in found}


@torch.no_grad()
def collect(
    float_model: FloatModel, nodes: set[Node], batches: Batches, progress: Progress
) -> dict[Node, Statistics]:
    """The statistics of what nodes of the float model give.

    Args:
        float_model: The model.
        nodes: Which nodes, of which regions.
        batches: The calibration images.
        progress: Shows how far it is.

    Returns:
        Node → statistics, of each that ran.

    Raises:
        SubbyteError: A node gives NaN or infinity.
    """
    seen = {node: _Seen() for node in nodes}
    for step, name in enumerate(("collecting statistics", "collecting deviations")):
        with ExitStack() as stack:
            for region in float_model.region_names:
                module = float_model.region(region)
                watcher = _Watcher(module, region, seen, second=step == 1)
                stack.enter_context(interpreted(module, watcher))
            for args in progress.track(batches, name):
                float_model(*args)
    return {node: its.statistics() for node, its in seen.items() if its.values}


@dataclass
class _Seen:
    """What has been seen of a node."""

    low: float = math.inf
    high: float = -math.inf
    lows: float = 0.0
    highs: float = 0.0
    images: int = 0
    values: int = 0
    total: float = 0.0
    squares: float = 0.0
    distances: float = 0.0

    def first(self, x: torch.Tensor) -> None:
        """Add extremes and the sum."""
        rows = x.reshape(x.shape[0], -1).double()
        # An image of a single value has no extremes of its own: they are the batch's.
        each = rows if rows.shape[1] > 1 else rows.reshape(1, -1)
        lows, highs = each.amin(1), each.amax(1)
        share = rows.shape[0] / each.shape[0]
        self.low, self.high = min(self.low, float(lows.min())), max(self.high, float(highs.max()))
        self.lows += float(lows.sum()) * share
        self.highs += float(highs.sum()) * share
        self.images += rows.shape[0]
        self.values += rows.numel()
        self.total += float(rows.sum())

    def second(self, x: torch.Tensor) -> None:
        """Add distances from the mean, which the first pass has given."""
        distances = x.double() - self.total / self.values
        self.squares += float(distances.square().sum())
        self.distances += float(distances.abs_().sum())

    def statistics(self) -> Statistics:
        return Statistics(
            self.low,
            self.high,
            self.lows / self.images,
            self.highs / self.images,
            self.total / self.values,
            math.sqrt(self.squares / self.values),
            self.distances / self.values,
        )


class _Watcher(fx.Interpreter):
    """Runs a region and shows the values of some nodes."""

    def __init__(
        self, module: fx.GraphModule, region: str, seen: Mapping[Node, _Seen], *, second: bool
    ) -> None:
        super().__init__(module)
        self.region, self.seen, self.second = region, seen, second

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        its = self.seen.get((self.region, n.name))
        if its is not None and isinstance(value, torch.Tensor) and value.numel() > 0:
            if not bool(torch.isfinite(value).all()):
                raise SubbyteError(
                    f"the activations at '{n.name}' hold NaN or infinity: check the calibration "
                    "images and the model's weights"
                )
            (its.second if self.second else its.first)(value)
        return value


def read_statistics(
    path: Path, float_model: FloatModel, tensors: Iterable[QuantizedTensor]
) -> dict[str, Statistics]:
    """Key → what a file of Distiller's `QuantCalibrationStatsCollector` says of an activation.

    Args:
        path: The file.
        float_model: The model.
        tensors: The activations.

    Raises:
        SubbyteError: There is no such file, or it lacks what is needed.
    """
    entries = statistics_file(path)
    folded = _folded(float_model.original)
    found = {}
    for tensor in tensors:
        assert tensor.observed is not None
        assert tensor.grid is not None
        moments = tensor.grid.clip in ("gauss", "laplace")
        found[tensor.key] = _entry(path, entries, tensor.observed, folded, moments=moments)
    return found


def statistics_file(path: Path) -> Mapping[str, Any]:
    """The entries of a file of statistics, by module."""
    try:
        entries = load_tagged(path.read_text(encoding="utf-8"))
    except OSError:
        raise SubbyteError(f"there is no file of statistics {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubbyteError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict) or not all(isinstance(v, dict) for v in entries.values()):
        raise SubbyteError(f"{path} has no statistics: they are NAME: {{inputs: …, output: …}}")
    return entries


def _entry(
    path: Path,
    entries: Mapping[str, Any],
    observed: Observed,
    folded: Mapping[str, str],
    *,
    moments: bool,
) -> Statistics:
    names = [name for name in observed.entries if name in entries]
    if not names:
        raise SubbyteError(f"{path}: {unknown('module', observed.entries[0], list(entries))}")
    entry = entries[names[0]]
    if observed.index is not None:
        return _read(path, f"{names[0]}.inputs.{observed.index}", _input(entry, observed.index))
    behind = entries.get(folded.get(names[0], ""))
    output = _read(path, f"{names[0]}.output", (behind or entry).get("output"))
    if observed.limits is not None and moments and "relu" in names[0]:
        inner = _read(path, f"{names[0]}.inputs.0", _input(entry, 0))
        return replace(
            output,
            mean=inner.mean,
            deviation=inner.deviation,
            mean_deviation=inner.mean_deviation,
        )
    return output


def _input(entry: Mapping[str, Any], index: int) -> Any:
    inputs = entry.get("inputs")
    if isinstance(inputs, list):
        return inputs[index] if index < len(inputs) else None
    return inputs.get(index, inputs.get(str(index))) if isinstance(inputs, dict) else None


def _read(path: Path, where: str, fields: Any) -> Statistics:
    values = {}
    for name, key in FIELDS.items():
        value: Any = fields.get(key) if isinstance(fields, dict) else None
        if value is None and name == "mean_deviation":
            value = math.nan  # older files lack it
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            raise SubbyteError(f"{path} lacks {where}.{key}: collect statistics again") from None
    return Statistics(**values)


def _folded(model: nn.Module) -> dict[str, str]:
    """Name of a layer → the batch norm behind it, which is folded into it."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    names = [
        (name, module) for name, module in model.named_modules() if not list(module.children())
    ]
    return {
        first: second
        for (first, layer), (second, norm) in pairwise(names)
        if isinstance(norm, kinds) and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    }
