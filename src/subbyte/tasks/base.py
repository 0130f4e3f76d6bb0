"""What a run asks of a task; all else is the same for classifiers and detectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from subbyte.placement.simulation import Captured
from subbyte.targets.base import Run, Session


class Batches(Protocol):
    """Images in batches, each a mapping with "inputs" and, if they are known, "targets"."""

    limit: int | None

    @property
    def images(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Any: ...


class Data(Protocol):
    """The images of an experiment, and what a reader of figures must know of them."""

    @property
    def calibration(self) -> Any:
        """`Batches` to calibrate with."""
        ...

    @property
    def evaluation(self) -> Any:
        """`Batches` to evaluate."""
        ...

    @property
    def overlap(self) -> int:
        """How many calibration images are evaluated too."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Broken files left out."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences."""
        ...


class Task(Protocol):
    """An experiment's images and how a model's outputs for them are read, compared and kept.

    Outputs are the task's own type; whoever measures only hands them on.
    """

    @property
    def name(self) -> str:
        """As `results.json` has it."""
        ...

    @property
    def primary_metric(self) -> str:
        """The metric that the table shows first."""
        ...

    @property
    def data(self) -> Data:
        """The images."""
        ...

    @property
    def example(self) -> tuple[Any, ...]:
        """A model's arguments for some calibration images, on the experiment's device."""
        ...

    @property
    def written(self) -> tuple[Any, ...]:
        """The same as a file takes them."""
        ...

    @property
    def postprocess(self) -> bool:
        """Whether files hold what follows on the network's raw outputs."""
        ...

    @property
    def reshapes(self) -> bool:
        """Whether a file sees images otherwise than the model does."""
        ...

    def simulated(self, model: torch.nn.Module, *, as_written: bool = False) -> Run:
        """Run a model in PyTorch; with `as_written` on images as a file takes them."""
        ...

    def deployed(self, session: Session, captured: Captured) -> Run | None:
        """Run a file of `captured` in a runtime; `None` where outputs cannot be made of its own."""
        ...

    def outputs(self, parts: Iterable[Any], targets: Sequence[Any]) -> Any:
        """The outputs for all evaluation images, of what a run gave for each batch."""
        ...

    def scores(self, outputs: Any) -> tuple[dict[str, Any], list[str]]:
        """`metrics`, `images`, `intervals` and more of an entry, and notes."""
        ...

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """The same for a file of which outputs cannot be made."""
        ...

    def changed(self, reference: Any, outputs: Any, captured: Captured) -> dict[str, Any]:
        """What quantization changed, `agreement_with_float` and `sqnr_db` among it."""
        ...

    def agreement(self, one: Any, other: Any) -> float:
        """The share of outputs that are the same, in [0, 1]."""
        ...

    def largest_difference(self, one: Any, other: Any) -> float | None:
        """The largest difference of a logit or score."""
        ...

    def save(self, outputs: Any, path: Path) -> None:
        """Write outputs as npz."""
        ...

    def load(self, path: Path) -> Any:
        """What `save` wrote."""
        ...

    def illustrate(self, folder: Path, name: str, reference: Any, outputs: Any) -> None:
        """Write pictures of a variant's outputs beside the float ones, where there are such."""
        ...

    def coverage(self) -> Mapping[str, int]:
        """Of how many of the model's classes there are evaluation images."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What a file says of the images that it takes, and the classes that it gives."""
        ...


def one_image(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch's arguments with its first image alone."""
    return tuple(argument[:1] for argument in arguments)


def arrays(arguments: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """A file's arguments as a runtime takes them."""
    return tuple(argument.detach().cpu().numpy() for argument in arguments)
