"""How tensors go from one region of a model to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

WHOLE = ("",)  # the one region of a model that is captured whole
Place = tuple[str, int]  # a region, and which of the leaves that it gets or gives


@dataclass(frozen=True)
class Flow:
    """How tensors go from region to region, each tensor by its number.

    Attributes:
        links: Input of a region → the output of another region that it is, the very same tensor.
        inner: Inputs that depend on what other regions gave, the links among them; all others are
            the model's own.
    """

    links: Mapping[Place, Place] = field(default_factory=dict)
    inner: frozenset[Place] = frozenset()

    def readers(self, place: Place) -> list[Place]:
        """The inputs of other regions that an output is."""
        return [reader for reader, source in self.links.items() if source == place]
