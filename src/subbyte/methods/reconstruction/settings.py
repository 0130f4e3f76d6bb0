"""What a method wants learned of each block, and how."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict, Field

from subbyte.utils.validation import Checked


class LearningOptions(Checked):
    """What can be set of every method that learns.

    Attributes:
        steps: Of each block, or layer.
        batch: Images of a step.
        regularizer: Strength with which rounding is pulled to up or down.
        fisher: Whether errors are weighed by the squared gradients of the task's loss.
        cache_memory: GB of what blocks read and give that are kept in memory; beyond, it goes to
            temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2000, ge=1)
    batch: int = Field(32, ge=1)
    regularizer: float = Field(0.01, ge=0)
    fisher: bool = False
    cache_memory: float = Field(4.0, ge=0)


@dataclass(frozen=True)
class LearningSettings:
    """One round of learning over all blocks.

    Attributes:
        description: What progress calls it.
        steps: Of each block, or layer.
        batch: Images of a step.
        regularizer: Its strength.
        fisher: Whether each value counts by the diagonal of the Fisher information.
        cache_memory: GB of what blocks read and give that are kept in memory.
        rounding: Whether the rounding of weights is learned.
        step_sizes: Whether the step sizes of activations are learned.
        drop: The share of activations, and of a block's inputs, that stay in float at random;
            `None`: none.
        exponent: p of the loss, the mean over images and positions of Σ over channels
            |y − target|^p.
        beta: From the first number to the second falls the exponent β of the regularizer.
        warm_up: The share of the steps after which the regularizer begins.
        rounding_rate: Learning rate of the rounding.
        step_size_rate: Learning rate of the step sizes.
        layers: One layer at a time instead of whole blocks.
    """

    description: str
    steps: int
    batch: int
    regularizer: float
    fisher: bool
    cache_memory: float
    rounding: bool = True
    step_sizes: bool = False
    drop: float | None = None
    exponent: float = 2.0
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: float = 0.2
    rounding_rate: float = 1e-3
    step_size_rate: float = 4e-5
    layers: bool = False


def settings_of(options: LearningOptions, description: str) -> LearningSettings:
    """The settings by the options that all methods share: rounding alone, block by block."""
    return LearningSettings(
        description,
        options.steps,
        options.batch,
        options.regularizer,
        options.fisher,
        options.cache_memory,
    )
