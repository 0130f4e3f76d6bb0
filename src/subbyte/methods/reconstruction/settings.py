"""What a method wants learned of each block, and how."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict, Field

from subbyte.numerics.fake_quantize import State
from subbyte.utils.validation import Checked


class LearningOptions(Checked):
    """What can be set of every method that learns.

    steps: of each block, or layer. batch: images of a step. regularizer: strength with which
    rounding is pulled to up or down. fisher: whether errors are weighed by the squared gradients of
    the task's loss. cache_memory: GB of what blocks read and give that are kept in memory; beyond,
    it goes to temporary files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(2000, ge=1)
    batch: int = Field(32, ge=1)
    regularizer: float = Field(0.01, ge=0)
    fisher: bool = False
    cache_memory: float = Field(4.0, ge=0)


@dataclass(frozen=True)
class Plan:
    """One round of learning over all blocks; `description` is what progress calls it.

    rounding, step_sizes: whether weights' rounding and activations' step sizes are learned.
    activations: whether activations are on their grids meanwhile. drop: the share of activations,
    and of a block's inputs, that stay in float at random (`None`: none). exponent: p of the loss,
    the mean over images and positions of Σ over channels |y − target|^p. fisher: whether each value
    counts by its importance to the task. regularizer: its strength; it begins after the share
    `warm_up` of the steps, and β falls from the first number to the second. layers: one layer at a
    time instead of whole blocks. cache_memory: in GB.
    """

    description: str
    steps: int
    batch: int
    regularizer: float
    fisher: bool
    cache_memory: float
    rounding: bool = True
    step_sizes: bool = False
    activations: bool = False
    drop: float | None = None
    exponent: float = 2.0
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: float = 0.2
    rounding_rate: float = 1e-3
    step_size_rate: float = 4e-5
    layers: bool = False

    @property
    def activation_state(self) -> State:
        """In which state activations' grids are meanwhile."""
        return State.QUANTIZE if self.activations else State.OFF


def plan_of(options: LearningOptions, description: str) -> Plan:
    """The plan by the options that all methods share: rounding alone, activations in float."""
    return Plan(
        description,
        options.steps,
        options.batch,
        options.regularizer,
        options.fisher,
        options.cache_memory,
    )
