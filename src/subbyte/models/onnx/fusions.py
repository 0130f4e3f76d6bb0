"""Functions that exporters write as several operators, made one again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from subbyte.models.onnx.network import Network, Node

# ("Operator", operand, …), a name that stands for any value, or a number: a constant of that value.
Pattern = tuple[Any, ...] | str | float
COMMUTES = ("Add", "Mul", "Sum")
GELU = ("Add", ("Erf", ("Div", "x", math.sqrt(2))), 1.0)
GELU_BY_PRODUCT = ("Add", ("Erf", ("Mul", "x", math.sqrt(0.5))), 1.0)
SIX = ("Clip", ("Add", "x", 3.0))
CENTRED = ("Sub", "x", ("ReduceMean", "x"))


@dataclass(frozen=True)
class _Match:
    """What a pattern was found to be.

    Attributes:
        values: The names in the file that the pattern's names stand for.
        nodes: The nodes that it is made of.
    """

    values: dict[str, str]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class _Fusion:
    """One operator for several.

    Attributes:
        pattern: The several, the last one first.
        operator: The one.
        inputs: What it reads, of the pattern's names.
        attributes: Its attributes, of what was found; `None`: it is something else after all.
    """

    pattern: Pattern
    operator: str
    inputs: tuple[str, ...]
    attributes: Callable[[_Match, Mapping[str, np.ndarray]], dict[str, Any] | None]


def fused(network: Network) -> Network:
    """A network with GELU, hard swish, Mish and layer norm as operators of their own."""
    producers, constants = network.producers(), network.constants
    nodes = []
    for node in network.nodes:
        for fusion in FUSIONS:
            found = _match(node, fusion.pattern, _Match({}, ()), producers, constants)
            attributes = None if found is None else fusion.attributes(found, constants)
            if found is not None and attributes is not None:
                inputs = tuple(found.values[name] for name in fusion.inputs)
                opset = max(node.opset, 20)  # by the newest rules: that is how they are written
                node = Node(
                    fusion.operator, node.name, inputs, node.outputs, attributes, opset, node.scope
                )
                break
        nodes.append(node)
    return network.with_nodes(nodes)


def _match(
    node: Node | None,
    pattern: tuple[Any, ...] | Any,
    found: _Match,
    producers: Mapping[str, Node],
    constants: Mapping[str, np.ndarray],
) -> _Match | None:
    """What a node is found to be by a pattern with an operator."""
    if node is None or node.operator != pattern[0] or len(node.inputs) < len(pattern) - 1:
        return None
    orders = [node.inputs[: len(pattern) - 1]]
    if node.operator in COMMUTES and len(orders[0]) == 2:
        orders.append(orders[0][::-1])
    for names in orders:
        result: _Match | None = _Match(dict(found.values), (*found.nodes, node))
        for name, part in zip(names, pattern[1:], strict=True):
            if result is None:
                break
            if isinstance(part, tuple):
                result = _match(producers.get(name), part, result, producers, constants)
            elif isinstance(part, str):
                known = result.values.setdefault(part, name)
                result = result if known == name else None
            elif not _is(constants.get(name), part):
                result = None
        if result is not None:
            return result
    return None


def _is(value: np.ndarray | None, number: float) -> bool:
    """Whether a constant is a number, as near as exporters write it."""
    return (
        value is not None
        and value.size == 1
        and math.isclose(float(value.reshape(-1)[0]), number, rel_tol=1e-4)
    )


def _always(match: _Match, constants: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    del match, constants
    return {}


def _clips_at_six(match: _Match, constants: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    clip = next(node for node in match.nodes if node.operator == "Clip")
    ends = [constants.get(name) for name in clip.inputs[1:3]]
    if not ends:
        return {} if (clip.get("min"), clip.get("max")) == (0.0, 6.0) else None
    return {} if len(ends) == 2 and _is(ends[1], 6.0) and _zero(ends[0]) else None


def _zero(value: np.ndarray | None) -> bool:
    return value is not None and value.size == 1 and float(value.reshape(-1)[0]) == 0


def _is_hard_swish(match: _Match, constants: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    del constants
    gate = next(node for node in match.nodes if node.operator == "HardSigmoid")
    sixth = math.isclose(gate.get("alpha", 0.2), 1 / 6, rel_tol=1e-4)
    return {} if sixth and gate.get("beta", 0.5) == 0.5 else None


def _layer_norm(match: _Match, constants: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """Means over the last axis, and a weight and a bias of its length."""
    for mean in (node for node in match.nodes if node.operator == "ReduceMean"):
        given = constants.get(mean.inputs[1]) if len(mean.inputs) > 1 else mean.get("axes")
        axes = () if given is None else tuple(np.asarray(given).reshape(-1).tolist())
        if axes != (-1,) or not mean.get("keepdims", 1):
            return None
    weight, bias = (constants.get(match.values[name]) for name in ("weight", "bias"))
    epsilon = constants.get(match.values["epsilon"])
    if weight is None or bias is None or epsilon is None or epsilon.size != 1:
        return None
    if weight.ndim != 1 or weight.shape != bias.shape:
        return None
    return {"axis": -1, "epsilon": float(epsilon.reshape(-1)[0])}


def _layer_norms() -> list[_Fusion]:
    squares: list[Pattern] = [("Pow", CENTRED, 2.0), ("Mul", CENTRED, CENTRED)]
    variances: list[Pattern] = [("ReduceMean", square) for square in squares]
    found = []
    for variance in variances:
        deviation = ("Sqrt", ("Add", variance, "epsilon"))
        for normal in (("Div", CENTRED, deviation), ("Mul", CENTRED, ("Reciprocal", deviation))):
            pattern = ("Add", ("Mul", normal, "weight"), "bias")
            inputs = ("x", "weight", "bias")
            found.append(_Fusion(pattern, "LayerNormalization", inputs, _layer_norm))
    return found


FUSIONS = [
    *_layer_norms(),
    *(
        _Fusion(pattern, "Gelu", ("x",), _always)
        for gate in (GELU, GELU_BY_PRODUCT)
        for pattern in (
            ("Mul", ("Mul", "x", gate), 0.5),
            ("Mul", ("Mul", "x", 0.5), gate),
            ("Mul", "x", ("Mul", gate, 0.5)),
        )
    ),
    *(
        _Fusion(pattern, "HardSwish", ("x",), _clips_at_six)
        for pattern in (
            ("Div", ("Mul", "x", SIX), 6.0),
            ("Mul", ("Mul", "x", SIX), 1 / 6),
            ("Mul", "x", ("Div", SIX, 6.0)),
            ("Mul", "x", ("Mul", SIX, 1 / 6)),
        )
    ),
    _Fusion(("Mul", "x", ("HardSigmoid", "x")), "HardSwish", ("x",), _is_hard_swish),
    _Fusion(("Mul", "x", ("Tanh", ("Softplus", "x"))), "Mish", ("x",), _always),
]
