"""What a method wants learned of each block, and how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """One round of learning over all blocks.

    rounding, step_sizes: whether weights' rounding and activations' step sizes are learned.
    activations: whether activations are on their grids meanwhile. drop: the share of activations,
    and of a block's inputs, that stay in float at random (`None`: none). exponent: p of the loss,
    the mean over images and positions of Σ over channels |y − target|^p. regularizer: its strength;
    it begins after the share `warm_up` of the steps, and β falls from the first number to the
    second. layers: one layer at a time instead of whole blocks.
    """

    steps: int
    batch: int
    rounding: bool = True
    step_sizes: bool = False
    activations: bool = False
    drop: float | None = None
    exponent: float = 2.0
    regularizer: float = 0.01
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: float = 0.2
    rounding_rate: float = 1e-3
    step_size_rate: float = 4e-5
    layers: bool = False
