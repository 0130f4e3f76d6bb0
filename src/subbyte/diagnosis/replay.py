"""A simulation run in float, then again with some of its quantizers, from where values change."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from subbyte.diagnosis.parts import Place, Switched
from subbyte.graph.float_model import called, interpreted
from subbyte.graph.flow import WHOLE
from subbyte.numerics.integer_sums import IntegerSums
from subbyte.placement.insert import QUANTIZERS
from subbyte.placement.simulation import Simulation

# Of a node: its place, its value, and its value in float.
See = Callable[[Place, torch.Tensor, torch.Tensor], None]
Values = dict[fx.Node, Any]


class _AllRanError(Exception):
    """Every region has run: what the model's own code does behind them is of no interest."""


class Replay:
    """Runs a simulation on the same arguments again and again; made by `replaying`."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._given: list[Any] = []
        self._calls = self._expected = 0
        self._regions = {name: _Region(self, name) for name in simulation.region_names}

    @torch.no_grad()
    def exactly(self, args: tuple[Any, ...], keep: Mapping[str, frozenset[str]] | None) -> Any:
        """The raw outputs in float; what nodes give is kept for later runs.

        Args:
            args: The model's.
            keep: Region → names of the nodes whose values are kept; `None`: of all.
        """
        for name, region in self._regions.items():
            region.calls, region.on = [], None
            region.keep = None if keep is None else keep.get(name, frozenset())
        self._expected = 0
        outputs = self._run(args)
        self._expected = self._calls
        return outputs

    @torch.no_grad()
    def quantized(
        self, args: tuple[Any, ...], on: Switched, watched: frozenset[Place], see: See
    ) -> Any:
        """The raw outputs with some quantizers, all else in float.

        Args:
            args: Those of the run in float.
            on: The nodes that quantize.
            watched: The nodes whose values are shown, beside those in float.
            see: Is shown them.
        """
        for name, region in self._regions.items():
            region.on, region.position = on.get(name, frozenset()), 0
            region.watched = {node for where, node in watched if where == name}
            region.see = see
        return self._run(args)

    def finished(self, region: str, outputs: Any) -> None:
        """Take what a region gave, and stop the model where nothing is left to see."""
        readers = self._simulation.flow.readers
        leaves = enumerate(pytree.tree_leaves(outputs))
        self._given += [x for i, x in leaves if not readers((region, i))]
        self._calls += 1
        if self._calls == self._expected and self._simulation.region_names != WHOLE:
            raise _AllRanError

    def _run(self, args: tuple[Any, ...]) -> Any:
        model = self._simulation
        self._given, self._calls = [], 0
        outputs = None
        with suppress(_AllRanError):
            outputs = called(model.model, model.float_model.signature, args, {})
        return outputs if model.region_names == WHOLE else tuple(self._given)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, region in self._regions.items():
                stack.enter_context(interpreted(self._simulation.region(name), region))
            yield


@contextmanager
def replaying(simulation: Simulation) -> Iterator[Replay]:
    """A `Replay` of a simulation, whose regions run node by node while it lasts."""
    replay = Replay(simulation)
    with replay._in_place():
        yield replay


class _Region(fx.Interpreter):
    """Runs one region.

    Attributes:
        calls: What the nodes gave in float, for each time that the region ran.
        keep: The nodes whose values are kept; `None`: all.
        on: The nodes that quantize; `None`: this is the run in float.
        position: How many times it has run since.
        watched: The nodes that are shown.
        see: What they are shown to.
    """

    def __init__(self, replay: Replay, name: str) -> None:
        simulation = replay._simulation
        super().__init__(simulation.region(name))
        self.replay, self.name = replay, name
        self.float_region = simulation.float_model.region(name)
        self.calls: list[Values] = []
        self.keep: frozenset[str] | None = None
        self.on: frozenset[str] | None = None
        self.position = 0
        self.watched: set[str] = set()
        self.see: See = lambda *_: None
        self.graph_ = simulation.region(name).graph
        self.last_readers = _last_readers(self.graph_)

    def run(self, *args: Any, initial_env: Any = None, enable_io_processing: bool = True) -> Any:
        """The region's results, in the graph's order; called by `interpreted`."""
        del initial_env, enable_io_processing
        outputs = self._exactly(args) if self.on is None else self._again(args, self.on)
        self.replay.finished(self.name, outputs)
        return outputs

    def _exactly(self, args: tuple[Any, ...]) -> Any:
        kept: Values = {}
        values: Values = {}
        given = iter(args)
        for node in self.graph_.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            else:
                values[node] = self._value(node, values, quantizes=False)
            if self.keep is None or node.name in self.keep or node.op == "placeholder":
                kept[node] = values[node]
            if self.keep is not None:
                for read in self.last_readers.get(node, ()):
                    del values[read]
        self.calls.append(kept)
        return values[node]

    def _again(self, args: tuple[Any, ...], on: frozenset[str]) -> Any:
        """What changes is computed; everything else is as it was in float."""
        known = self.calls[self.position] if self.position < len(self.calls) else {}
        self.position += 1
        values: Values = {}
        changed: set[fx.Node] = set()
        given = iter(args)
        for node in self.graph_.nodes:
            if node.op == "placeholder":
                value = next(given)
                if not (node in known and _same(value, known[node])):
                    values[node] = value
                    changed.add(node)
            elif (
                node not in known
                or node.name in on
                or any(read in changed for read in node.all_input_nodes)
            ):
                values[node] = self._value(node, _Both(values, known), node.name in on)
                changed.add(node)
                if node.name in self.watched and isinstance(values[node], torch.Tensor):
                    self._show(node, values[node], known.get(node))
            for read in self.last_readers.get(node, ()):
                values.pop(read, None)
        return values[node] if node in changed else known[node]

    def _show(self, node: fx.Node, value: torch.Tensor, exact: Any) -> None:
        same = isinstance(exact, torch.Tensor) and exact.shape == value.shape
        if same and value.is_floating_point():
            self.see((self.name, node.name), value, exact)

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any], quantizes: bool) -> Any:
        """What a node gives.

        Args:
            node: The node.
            values: Of the nodes that it reads.
            quantizes: Whether it quantizes, if it can.
        """
        args: Any = fx.node.map_arg(node.args, lambda read: values[read])
        kwargs = fx.node.map_arg(node.kwargs, lambda read: values[read])
        if node.op == "get_attr":
            owner = self.module if quantizes else self.float_region
            return operator.attrgetter(str(node.target))(owner)
        if node.op == "output":
            return args[0]
        if node.op == "call_module" and str(node.target).startswith(f"{QUANTIZERS}."):
            module = self.module.get_submodule(str(node.target))
            if quantizes:
                return module(*args)
            if isinstance(module, IntegerSums):
                x, weight, *bias = args
                return module.computed(x, weight, bias[0] if bias else None)
            return args[0]
        return getattr(self, node.op)(node.target, args, kwargs)


class _Both(Mapping[fx.Node, Any]):
    """New values, and where there are none those in float."""

    def __init__(self, values: Values, known: Values) -> None:
        self.values_, self.known = values, known

    def __getitem__(self, node: fx.Node) -> Any:
        return self.values_[node] if node in self.values_ else self.known[node]

    def __iter__(self) -> Iterator[fx.Node]:
        return iter({**self.known, **self.values_})

    def __len__(self) -> int:
        return len({**self.known, **self.values_})


def _last_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those that it is the last one to read, itself where nothing reads it."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    nodes = list(graph.nodes)
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        if node.op != "output":
            last = max((order[user] for user in node.users), default=order[node])
            found.setdefault(nodes[last], []).append(node)
    return found


def _same(value: Any, known: Any) -> bool:
    if value is known:
        return True
    if isinstance(value, torch.Tensor) and isinstance(known, torch.Tensor):
        return value.shape == known.shape and torch.equal(value, known)
    return bool(type(value) is type(known) and value == known)
