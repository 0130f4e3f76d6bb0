"""Which operations Distiller's patterns mean: it names modules, a captured graph has operations."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from subbyte.errors import SubbyteError, unknown


@dataclass(frozen=True)
class Network:
    """What a model's modules are called.

    Attributes:
        operations: The names of each operation, the qualified one first.
        layers: The qualified names of the layers.
        fused: The names of ReLUs that are computed along with the operation before them, and that
            operation's.
        without_weights: Layers whose weights Distiller leaves in float, with the reason.
    """

    operations: tuple[tuple[str, ...], ...]
    layers: tuple[str, ...]
    fused: dict[str, str] = field(default_factory=dict)
    without_weights: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What a pattern means.

    Attributes:
        pattern: As it stands in the file.
        regex: The regular expression for operations.
        of_layers: The one for layers, by their qualified names.
        note: How it was read, where it is not the regular expression that it is in Distiller.
        operations: The operations that it matches; `None`: no model is known.
        layers: Those of them that are layers.
    """

    pattern: str
    regex: str
    of_layers: str
    note: str = ""
    operations: tuple[str, ...] | None = None
    layers: tuple[str, ...] = ()


def network_of(float_model: Any) -> Network:
    """What a captured model's modules are called."""
    from torch import nn

    from subbyte.graph.float_model import qualified
    from subbyte.graph.operations import operations_of
    from subbyte.graph.operators import CONV, LINEAR, MATMUL, rank_of

    every, fused, without = [], dict[str, str](), dict[str, str]()
    for region in float_model.region_names:
        found = operations_of(float_model, region)
        by_node = {operation.node: operation for operation in found}
        every += [operation.names for operation in found]
        for operation in found:
            if operation.relu in by_node:
                fused[by_node[operation.relu].name] = operation.name
        for layer in float_model.layers[region]:
            name, node = qualified(region, layer.name), layer.node
            if layer.reason:
                without[name] = layer.reason
            elif node.target not in CONV | LINEAR | MATMUL:
                without[name] = "Distiller has no integers for transposed convolutions"
            elif node.target in CONV and rank_of(node) != 4:
                without[name] = "Distiller has no integers for 1-d convolutions"
    embeddings = [
        name
        for name, module in float_model.original.named_modules()
        if isinstance(module, nn.Embedding)
    ]
    if embeddings:
        raise SubbyteError(
            f"bits_parameters is not supported for the embedding '{embeddings[0]}': Subbyte "
            "quantizes convolutions, linear layers and products"
        )
    return Network(tuple(every), tuple(float_model.layer_names), fused, without)


def reading_of(pattern: str, where: str, network: Network | None) -> Reading:
    """What a pattern means: a regular expression that matches the whole name of a module.

    One that matches none, or is none, is read as people write it: with `*` for anything, or for the
    end of a name.

    Args:
        pattern: As it stands in the file.
        where: At which key.
        network: The model; `None`: it is not known, and only what is no regular expression is read
            otherwise.

    Raises:
        SubbyteError: It matches nothing.
    """
    if network is None:
        regex, note = next(_readings(pattern), (pattern, ""))
        return Reading(pattern, regex, regex, note)
    for regex, note in _readings(pattern):
        found = tuple(its[0] for its in network.operations if _matches(regex, its))
        if found:
            layers = tuple(name for name in found if name in network.layers)
            plain = [name for name in layers if re.fullmatch(regex, name)]
            of_layers = regex if len(plain) == len(layers) else _at_end(regex)
            return Reading(pattern, regex, of_layers, note, found, layers)
    known = [its[0] for its in network.operations]
    raise SubbyteError(f"{where}: {unknown('module', pattern, known)}")


def _readings(pattern: str) -> Iterator[tuple[str, str]]:
    """A pattern as a regular expression, with a note on how it was read."""
    forms = [(pattern, "")] if _compiles(pattern) else []
    if "*" in pattern or "?" in pattern:
        globbed = "".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern)
        forms.append((globbed, "* read as anything"))
    yield from forms
    for regex, note in forms:
        said = "read as the end of a name"
        yield _at_end(regex), f"{note}, {said}" if note else said


def _at_end(regex: str) -> str:
    return rf"(?:.*\.)?(?:{regex})"


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _matches(regex: str, names: Collection[str]) -> bool:
    return any(re.fullmatch(regex, name) for name in names)
