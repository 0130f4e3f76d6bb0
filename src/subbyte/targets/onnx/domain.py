"""Names of the nodes of our own of which an exported graph consists before it is rewritten."""

from __future__ import annotations

DOMAIN = "subbyte"
GRID, LINEAR = "QuantizeDequantize", "Linear"
EVERY = ""  # `only_for` of a grid that is there for all


def joined(targets: tuple[str, ...]) -> str:
    """Names of targets as `only_for` holds them."""
    return ",".join(targets)


def stands_for(only_for: str, target: str) -> bool:
    """Whether a grid is there for a target."""
    return only_for == EVERY or target in only_for.split(",")
