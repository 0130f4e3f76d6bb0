"""What a training run is asked for."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from subbyte.data import DataConfig
from subbyte.models.families import ssd
from subbyte.utils.validation import Checked, Device, HomePath

Share = Annotated[float, Field(gt=0, lt=1)]


class Training(Checked):
    """How an SSD is trained; only `model` has no default.

    Attributes:
        model: A member of the SSD family.
        checkpoint: A file of the same member to start from; classes other than the data's are left
            out.
        checkpoint_key: Under which of the keys of that file, or of `backbone`, the weights are; see
            `ModelConfig`.
        backbone: A file of the classifier's weights to start from; without either, weights are
            random.
        epochs: How many.
        batch_size: Images a step, of all processes together.
        learning_rate: Rises from 0 over `warmup_steps` to this one, then falls as `schedule` has
            it.
        schedule: "cosine": to 0 along a cosine; "steps": by a factor of 10 at each of the
            `milestones`.
        milestones: Shares of the steps.
        warmup_steps: How many; half of all steps at most.
        optimizer: SGD with `momentum`, or AdamW.
        momentum: Of SGD.
        weight_decay: For weights of layers only.
        clip_gradient: Longer gradients are cut to this length; `None`: none is.
        box_beta: Error of a box, in units of the default box over its variance, from which on the
            loss grows linearly; a small one places boxes more exactly.
        distort: Change colours.
        zoom_out: Place images in larger ones; the largest factor.
        crop: Cut images.
        flip: Left and right.
        evaluate_every: Epochs from one evaluation to the next, beside that after the last one.
        save_seconds: From one saved state to the next.
        workers: Processes that read images.
        bfloat16: The network computes in this format, its weights stay in float32; half the time
            where the processor or GPU has it.
        device: "cpu" or "cuda".
        seed: Of weights, order and augmentation.

    Raises:
        SubbyteError: A key that does not exist, is missing, or has a value it cannot have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    checkpoint: HomePath | None = None
    backbone: HomePath | None = None
    checkpoint_key: str | None = None
    epochs: int = Field(default=120, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[Share, ...] = (2 / 3, 5 / 6)
    warmup_steps: int = Field(default=500, ge=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    clip_gradient: float | None = Field(default=10.0, gt=0)
    box_beta: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    distort: bool = True
    zoom_out: float = Field(default=4.0, ge=1, allow_inf_nan=False)
    crop: bool = True
    flip: bool = True
    evaluate_every: int | None = Field(default=None, ge=1)
    save_seconds: float = Field(default=60.0, ge=0)
    workers: int = Field(default=0, ge=0)
    bfloat16: bool = False
    device: Device = "cpu"
    seed: int = Field(default=0, ge=0)

    @field_validator("model")
    @classmethod
    def _is_an_ssd(cls, value: str) -> str:
        known = ssd.names()
        if value not in known:
            raise ValueError(
                f"{value!r} is not an SSD that can be trained: give {', '.join(known)}"
            )
        return value

    @model_validator(mode="after")
    def _one_start(self) -> Training:
        if self.checkpoint is not None and self.backbone is not None:
            raise ValueError("checkpoint and backbone exclude each other: give one of them")
        if self.checkpoint_key is not None and self.checkpoint is None and self.backbone is None:
            raise ValueError("checkpoint_key is of a checkpoint or backbone: give that too")
        return self


class TrainingExperiment(Checked):
    """What is trained, and on which images: those of `data`'s calibration side, all of them.

    Raises:
        SubbyteError: A key that does not exist, is missing, or has a value it cannot have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    data: DataConfig
    training: Training


def learning_rate(config: Training, step: int, steps: int) -> float:
    """The learning rate of `step`, of 0 to `steps` - 1.

    Args:
        config: The training's.
        step: From 0 to `steps` - 1.
        steps: How many there are.
    """
    # A short run warms up over its first half at most.
    warmup = min(config.warmup_steps, steps // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "steps":
        passed = sum(step >= share * steps for share in config.milestones)
        return config.learning_rate * 0.1**passed
    share = (step - warmup) / max(steps - warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
