"""What the package knows of an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operator:
    """How an ONNX operator is computed.

    Attributes:
        function: Takes the node and its operands, gives a tensor, or a tuple of tensors.
        numbers: The operands that must be known without the images, such as a shape: the function
            gets them as arrays of numbers.
        weight: The operand that is the weight of a layer, which names the layer; 0: there is none.
        scalar: Whether a constant of one element may be given as a number.
    """

    function: Callable[..., Any]
    numbers: frozenset[int] = frozenset()
    weight: int = 0
    scalar: bool = False


Table = dict[str, Operator]


def numbers(*places: int) -> frozenset[int]:
    """Places of operands that are numbers."""
    return frozenset(places)
