"""What each layer takes of a runtime's time, by the runtime's own profile of a file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from subbyte.bit_search.choose import Option, Unit
from subbyte.bit_search.sensitivity import Sensitivity
from subbyte.targets import base as targets

ROUNDS = 5  # in which files take turns
LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# What runtimes put behind the names of nodes that they fuse or move.
ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|_fused\w*|_quant\w*|/\w+)$")
REMAINING = 1.02  # of the float kernel's time, up to which an int8 kernel counts as no slower


@dataclass(frozen=True)
class Profiles:
    """What layers take, in milliseconds.

    Attributes:
        integer: Layer → with an int8 kernel, and what surrounds it.
        floating: Layer → in float.
    """

    integer: Mapping[str, float]
    floating: Mapping[str, float]


def layer_times(path: Path, times: Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """The time of each layer, with what follows on it up to the next one.

    Args:
        path: The file.
        times: Node, as a runtime's profile calls it, → milliseconds.
        layers: The layers' qualified names.
    """
    graph = onnx.load(path, load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    named = {node.name: node for node in graph.node}
    weights = {_plain(f"{name}.weight"): name for name in layers}
    owner = _Owners(made, {tensor.name for tensor in graph.initializer}, weights)
    found: dict[str, float] = {}
    for name, ms in times.items():
        node = _node(name, named, made)
        layer = None if node is None else owner.of(node)
        if layer is not None:
            found[layer] = found.get(layer, 0.0) + ms
    return found


def units_by_latency(sensitivity: Sensitivity, profiles: Profiles) -> list[Unit]:
    """The layers, each with its time on integers and in float.

    A layer of which a profile says nothing is on integers.

    Args:
        sensitivity: Of the weights, at one width.
        profiles: What was measured in the runtime.
    """
    units = []
    for layer in sensitivity.of_role("weight"):
        bits = max(layer.losses)
        own, other = (p.get(layer.layer) for p in (profiles.integer, profiles.floating))
        integer = Option(bits, None, own or 0.0, layer.losses[bits])
        floating = Option(None, None, (other or 0.0) * REMAINING, 0.0)
        known = own is not None and other is not None
        units.append(Unit(layer.layer, (integer, floating) if known else (integer,)))
    return units


def side_by_side(
    sessions: Sequence[targets.Session], inputs: Sequence[Sequence[np.ndarray]]
) -> list[float]:
    """Median latencies of files that take turns, in milliseconds.

    Args:
        sessions: The files, loaded.
        inputs: What each is run with.
    """
    found: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for times, session, own in zip(found, sessions, inputs, strict=True):
            times.append(targets.latency_ms(session, *own))
    return [median(times) for times in found]


class _Owners:
    """Which layer a node of a file belongs to: its own, or the one before it."""

    def __init__(
        self, made: Mapping[str, Any], initializers: set[str], weights: Mapping[str, str]
    ) -> None:
        self.made, self.initializers, self.weights = made, initializers, weights
        self.found: dict[str, str | None] = {}

    def of(self, node: Any) -> str | None:
        """The layer, `None` where no layer is before the node."""
        key = node.output[0]
        if key not in self.found:
            self.found[key] = None  # while it is looked for
            own = self._layer(node) if node.op_type in LAYERS else None
            before = (self.made[name] for name in node.input if name in self.made)
            self.found[key] = own or next((x for x in map(self.of, before) if x), None)
        return self.found[key]

    def _layer(self, node: Any) -> str | None:
        """The layer whose weight a node reads."""
        seen: set[str] = set()
        stack = list(node.input[1:2])
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.initializers:
                fitting = [w for w in self.weights if f"_{w}_" in f"_{_plain(name)}_"]
                if fitting:  # conv1 is at the end of block1.conv1 too
                    return self.weights[max(fitting, key=len)]
            if name in self.made:
                stack += self.made[name].input
        return None


def _node(name: str, named: Mapping[str, Any], made: Mapping[str, Any]) -> Any | None:
    """The node of a file that a profile means."""
    while True:
        found = named.get(name) or made.get(name)
        if found is not None:
            return found
        shorter = ADDED.sub("", name)
        if shorter == name:
            return None
        name = shorter


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)
