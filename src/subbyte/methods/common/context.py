"""What a method is given beside the model, the placement, the images and its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from subbyte.utils.observer import Observer, Unobserved
from subbyte.utils.progress import Progress, Silent

LabelLoss = Callable[[Any, Any], torch.Tensor]  # of a model's outputs and a batch's targets


@dataclass(frozen=True)
class Context:
    """What a method is given beside its own options.

    Attributes:
        seed: Of all that is drawn at random.
        progress: Shows how far the work is.
        loss: How wrong outputs are by a batch's labels; `None` where that is not known.
        resume: A folder for what is finished, so that a killed run goes on; `None` without one.
        observer: Takes the losses of each block, or of the whole network, step by step.
    """

    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    loss: LabelLoss | None = None
    resume: Path | None = None
    observer: Observer = field(default_factory=Unobserved)
