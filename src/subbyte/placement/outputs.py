"""Where activations of a region are quantized whose grids are those of operations' results."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import fx

from subbyte.graph.operations import Operation
from subbyte.graph.operators import A, rank_of, tensor_inputs, tensor_readers
from subbyte.numerics.qspec import QSpec
from subbyte.placement.layer_config import LayerConfig
from subbyte.placement.placement import Observed, QuantizedTensor
from subbyte.recipe import Choice, Grid, Grids, Recipe, choice

# What gives the very tensor that it reads, and what gives its values in another shape.
SAME = {A.dropout.default, A.alias.default, A.detach.default, A.contiguous.default}
RESHAPED = {A.view.default, A.reshape.default, A.flatten.using_ints, A.squeeze.default}
MOMENTS = ("gauss", "laplace", "n_std")  # clips for which it counts what a ReLU has cut off


@dataclass(frozen=True)
class Placed:
    """A quantized activation and where it stands.

    Attributes:
        tensor: The activation.
        node: The node whose value is quantized.
        readers: The nodes that read the quantized value.
    """

    tensor: QuantizedTensor
    node: fx.Node
    readers: frozenset[str]


@dataclass
class OutputPlan:
    """Where activations of a region are quantized.

    Attributes:
        placed: The quantized activations.
        of_layer: Node of a layer → the keys of its inputs.
        held: Node → the key of the grid that its values have.
        unquantized: What reads an input that has no grid and gets none, by NAME#INDEX.
        carried: What reads an input that has a grid already, likewise.
        results: Node of an operation → the key of its result's grid.
    """

    placed: list[Placed] = field(default_factory=list)
    of_layer: dict[fx.Node, list[str]] = field(default_factory=dict)
    held: dict[fx.Node, str] = field(default_factory=dict)
    unquantized: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    results: dict[fx.Node, str] = field(default_factory=dict)


def plan_of_outputs(
    region: str,
    operations: Collection[Operation],
    configs: Mapping[str, LayerConfig],
    recipe: Recipe,
    given: Mapping[fx.Node, str],
) -> OutputPlan:
    """Walk through a region: each operation gives its result a grid, and reads what has one.

    What an operation reads without a grid gets one for it alone, where the recipe's `inputs` say.

    Args:
        region: The region's name.
        operations: Its operations, in the graph's order.
        configs: Name of a layer → what the recipe asks for it.
        recipe: What is asked for.
        given: Placeholder → the key of the grid that it comes with from another region.
    """
    plan = OutputPlan(held=dict(given))
    grids: dict[str, Grid] = {}
    fused: set[fx.Node] = set()
    for operation in operations:
        grid = found_in(recipe.outputs, operation.names)
        if operation.node in fused or grid is None:
            continue
        if _reads_integers(operation, configs):
            keys = [
                _input(plan, region, operation, index, source, recipe, grids)
                for index, source in enumerate(operation.inputs)
            ]
            if operation.layer is not None:
                plan.of_layer[operation.node] = [key for key in keys if key is not None]
        placed = _result(region, operation, grid)
        grids[placed.tensor.key] = grid
        plan.placed.append(placed)
        plan.held[placed.node] = placed.tensor.key
        plan.results[operation.node] = placed.tensor.key
        if operation.relu is not None:
            fused.add(operation.relu)
    return plan


def found_in(grids: Grids, names: Collection[str]) -> Grid | None:
    """The grid of the first pattern that matches one of the names in full."""
    for pattern, grid in grids.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return grid
    return None


def _reads_integers(operation: Operation, configs: Mapping[str, LayerConfig]) -> bool:
    """Whether an operation's inputs are quantized: those of a layer not beside a float weight."""
    layer = operation.layer
    if layer is None or layer.weight is None:
        return layer is None or not layer.reason
    return layer.name in configs and configs[layer.name].weight is not None


def _input(
    plan: OutputPlan,
    region: str,
    operation: Operation,
    index: int,
    source: fx.Node,
    recipe: Recipe,
    grids: dict[str, Grid],
) -> str | None:
    """The key of the grid in which an operation reads an input; `None`: it reads it in float.

    Args:
        plan: Of the region; a grid for this reader may be added to it.
        region: The region's name.
        operation: The reader.
        index: Which of its inputs.
        source: The node that gives it.
        recipe: What is asked for.
        grids: Key → grid, likewise.
    """
    held = plan.held.get(_origin(source, SAME))
    if held is not None:
        plan.carried.append(f"{operation.name}#{index}")
        return held
    grid = found_in(recipe.inputs, [f"{name}#{index}" for name in operation.names])
    if grid is None:
        plan.unquantized.append(f"{operation.name}#{index}")
        return None
    before = plan.held.get(_origin(source, SAME | RESHAPED))
    if before is not None and grids.get(before) == grid and grid.clip not in MOMENTS:
        return before  # the same values, in the same range
    name = f"{operation.name}#{index}"
    tensor = _tensor(
        region,
        name,
        grid,
        Observed(source.name, entries=operation.names, index=index),
        readers=(operation.name,) if operation.layer is not None else (),
    )
    grids[tensor.key] = grid
    plan.placed.append(Placed(tensor, source, frozenset({operation.node.name})))
    return tensor.key


def _origin(node: fx.Node, through: Collection[object]) -> fx.Node:
    while node.target in through and len(tensor_inputs(node)) == 1:
        if rank_of(node) is None:
            break
        node = tensor_inputs(node)[0]
    return node


def _result(region: str, operation: Operation, grid: Grid) -> Placed:
    """What an operation gives, behind a ReLU that is computed along with it."""
    node = operation.relu or operation.node
    behind = operation.relu is not None or operation.is_relu
    limits = operation.limits
    values = operation.node.name
    if operation.is_relu and grid.clip in ("gauss", "laplace"):
        values, limits = operation.inputs[0].name, (0.0, float("inf"))
    readers = frozenset(reader.name for reader in tensor_readers(node))
    tensor = _tensor(
        region,
        operation.name,
        grid.model_copy(update={"half": True}) if behind else grid,
        Observed(values, limits, entries=operation.names),
        rectified=grid.half and not behind,
    )
    return Placed(tensor, node, readers)


def _tensor(
    region: str,
    name: str,
    grid: Grid,
    observed: Observed,
    *,
    readers: tuple[str, ...] = (),
    rectified: bool = False,
) -> QuantizedTensor:
    rule = Choice("minmax", {}) if grid.ranges is None else choice(grid.ranges)
    return QuantizedTensor(
        key=f"{name}.activation",
        layer=name,
        role="activation",
        region=region,
        spec=QSpec(grid.bits, grid.symmetric, None, grid.restricted, rectified),
        rule=rule,
        readers=readers,
        grid=grid if grid.ranges is None else None,
        observed=observed,
    )
