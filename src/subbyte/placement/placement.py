"""`Placement`: which tensor is quantized how, and where; plain data that nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from torch import fx

from subbyte.numerics.qspec import QSpec
from subbyte.recipe import Choice, Grid, Recipe


@dataclass(frozen=True)
class TargetHints:
    """What placement has to know of a target.

    Attributes:
        name: The target's name.
        quantized_results: It runs a convolution with an int8 kernel only if all that the
            convolution gives is quantized.
    """

    name: str
    quantized_results: bool = False


@dataclass(frozen=True)
class Observed:
    """Of which values the statistics choose the range of an activation with a `Grid`.

    Attributes:
        node: The node that gives the values.
        limits: Beyond which its extremes make no difference; `None`: everything counts.
        entries: The names of the operation that gives or reads them.
        index: Which of that operation's inputs they are; `None`: what it gives.
    """

    node: str
    limits: tuple[float, float] | None = None
    entries: tuple[str, ...] = ()
    index: int | None = None


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that is quantized.

    Attributes:
        key: By which parameters and quantizers are found: the layer and the role.
        layer: Qualified name of the user's layer that the tensor belongs to: the layer of a weight,
            the first layer that reads an activation.
        role: "weight" or "activation".
        region: Where its quantizer stands.
        spec: Its integers.
        rule: The range rule that was asked for it.
        readers: All layers that read it.
        source: Of a weight the name of its parameter in the region.
        channels: How many scales it has.
        only_for: The targets for which it is quantized, because others compute it within a kernel;
            empty: all.
        grid: Of an activation whose range is chosen by statistics: what was asked for; else `None`.
        observed: Of an activation placed by `Recipe.outputs`: of which values its range is chosen.
    """

    key: str
    layer: str
    role: str
    region: str
    spec: QSpec
    rule: Choice
    readers: tuple[str, ...]
    source: str | None = None
    channels: int = 1
    only_for: tuple[str, ...] = ()
    grid: Grid | None = None
    observed: Observed | None = None

    def stands_for(self, target: str | None) -> bool:
        """Whether it is quantized in a file for `target`; `None`: in the one for all."""
        return not self.only_for or target is None or target in self.only_for


@dataclass(frozen=True)
class PlacedLayer:
    """A convolution, linear layer or matrix product that could be quantized.

    Attributes:
        name: Its qualified name.
        operation: "conv", "linear" or "matmul".
        region: The region it is in.
        node: Its name in the region's graph.
        weight: The key of its weight; `None`: the weight stays in float, or there is none.
        activations: The keys of its quantized inputs; their quantizers may stand in the region that
            gives them.
        reason: Why nothing of it is quantized; empty where something is.
    """

    name: str
    operation: str
    region: str
    node: str
    weight: str | None
    activations: tuple[str, ...]
    reason: str = ""

    @property
    def integer(self) -> bool:
        """Whether both operands are quantized, so that an int8 kernel can run the layer."""
        operands = len(self.activations) + (self.weight is not None)
        return operands == 2


@dataclass(frozen=True)
class Insertion:
    """Where a quantizer stands in the graph of a region.

    Attributes:
        region: The region.
        key: Of the tensor.
        node: The node whose value is quantized.
        readers: The nodes that read the quantized value; others read the float one.
    """

    region: str
    key: str
    node: str
    readers: frozenset[str]


@dataclass(frozen=True)
class QuantizedBias:
    """A bias that is rounded to the int32 sums of its layer.

    Attributes:
        region: The region.
        node: The layer's node.
        bias: The node that reads the parameter.
        activation: The key of the layer's input.
        weight: The key of the layer's weight.
    """

    region: str
    node: str
    bias: str
    activation: str
    weight: str


@dataclass(frozen=True)
class NarrowSum:
    """The integer sums of a layer that are not those of int32 which a factor makes floats of.

    Attributes:
        region: The region.
        layer: The layer's qualified name.
        node: Its node.
        bits: Of the accumulator, which saturates.
        activation: The key of the layer's input.
        weight: The key of its weight.
        output: The key of the grid of its result; `None`: there is none.
        scale_bits: Bits of the whole number in the factor that makes integers of that grid of the
            sums; `None`: any float32.
    """

    region: str
    layer: str
    node: str
    bits: int
    activation: str
    weight: str
    output: str | None = None
    scale_bits: int | None = None


@dataclass(frozen=True)
class Placement:
    """Which tensors of a model are quantized how, who reads them, what stays in float and why.

    Attributes:
        recipe: What was asked for.
        tensors: All that is quantized, in the order in which the regions' graphs read them.
        layers: All that could be quantized, in the graphs' order.
        insertions: Where the quantizers stand, in the graphs' order.
        biases: The biases that are rounded.
        sums: The layers whose sums are simulated as integers.
    """

    recipe: Recipe
    tensors: tuple[QuantizedTensor, ...]
    layers: tuple[PlacedLayer, ...]
    insertions: tuple[Insertion, ...]
    biases: tuple[QuantizedBias, ...]
    sums: tuple[NarrowSum, ...] = ()

    @cached_property
    def _by_key(self) -> dict[str, QuantizedTensor]:
        return {tensor.key: tensor for tensor in self.tensors}

    def tensor(self, key: str) -> QuantizedTensor:
        """The tensor of a key."""
        return self._by_key[key]

    def of_role(self, role: str) -> Iterator[QuantizedTensor]:
        """The tensors of role "weight" or "activation"."""
        return (tensor for tensor in self.tensors if tensor.role == role)

    def with_plain_sums(self) -> Placement:
        """The same with sums as those of the runtimes, which do not saturate."""
        return replace(self, sums=()) if self.sums else self

    def for_target(self, target: str | None) -> Placement:
        """The same without what is quantized for other targets alone."""
        gone = {tensor.key for tensor in self.tensors if not tensor.stands_for(target)}
        if not gone:
            return self
        return replace(
            self,
            tensors=tuple(t for t in self.tensors if t.key not in gone),
            insertions=tuple(i for i in self.insertions if i.key not in gone),
            biases=tuple(b for b in self.biases if b.activation not in gone),
            sums=tuple(s for s in self.sums if s.activation not in gone),
        )


def node_names(graph: fx.Graph) -> dict[str, fx.Node]:
    """Name → node."""
    return {node.name: node for node in graph.nodes}
