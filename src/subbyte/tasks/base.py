"""What a run asks of a task, and which tasks there are: each file here that has an `open_task`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from subbyte.data.config import DataConfig
from subbyte.errors import unknown
from subbyte.graph.float_model import FloatModel, Regional
from subbyte.models import ModelSpec
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import Run, Session
from subbyte.tasks.metrics.paired import Paired
from subbyte.utils.progress import Progress


@dataclass(frozen=True)
class Asked:
    """Which images an experiment uses, and how they are run.

    Attributes:
        data: Where images come from, and how many.
        seed: Of the choice of images.
        batch_size: Images a batch.
        device: Where the simulation runs, "cpu" or "cuda".
        postprocess: Whether files hold what follows on the network's raw outputs.
        simulation_images: On how many evaluation images the simulation runs; `None`: all.
    """

    data: DataConfig
    seed: int = 0
    batch_size: int = 64
    device: str = "cpu"
    postprocess: bool = True
    simulation_images: int | None = None


@dataclass(frozen=True)
class Columns:
    """What the table of a run shows of a task, between the runtime's name and the noise.

    Attributes:
        names: Of the columns.
        cells: Their text, of an entry of the results in its simulation, or with `deployed=True` of
            one in a runtime.
        caption: Lines that explain them.
        raw_latency: Whether latency is shown without post-processing too.
    """

    names: tuple[str, ...]
    cells: Callable[..., list[str]]
    caption: tuple[str, ...]
    raw_latency: bool = False


@dataclass(frozen=True)
class OnnxFile:
    """A file to evaluate or predict with.

    Attributes:
        path: The file.
        metadata: What stands in it of preprocessing and classes.
        load: Opens it in a runtime.
    """

    path: Path
    metadata: Mapping[str, Any]
    load: Callable[[], Session]


class ImageBatches(Protocol):
    """Images in batches, each a mapping with "inputs" and, if they are known, "targets"."""

    limit: int | None

    @property
    def images(self) -> int:
        """How many there are."""
        ...

    def take(self, indices: Sequence[int]) -> Any:
        """Batches of the images at `indices` alone, in that order."""
        ...

    def __iter__(self) -> Any: ...


class TaskData(Protocol):
    """The images of an experiment, and what a reader of figures must know of them."""

    @property
    def calibration(self) -> Any:
        """`ImageBatches` to calibrate with."""
        ...

    @property
    def evaluation(self) -> Any:
        """`ImageBatches` to evaluate."""
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

    Outputs are the task's own type, with a method `take(numbers)`: the outputs for some of the
    images. Whoever measures only hands them on.
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
    def data(self) -> TaskData:
        """The images."""
        ...

    @property
    def simulated_images(self) -> tuple[int, ...]:
        """Which evaluation images, by number from 0 on, the simulation takes; ascending."""
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

    def deployed(self, session: Session, model: Regional) -> Run | None:
        """Run a file of `model` in a runtime; `None` where outputs cannot be made of its own."""
        ...

    def outputs(self, parts: Iterable[Any], targets: Sequence[Any], numbers: Sequence[int]) -> Any:
        """The outputs for the evaluation images of these numbers.

        Args:
            parts: What a run gave for each batch of them.
            targets: The targets of each batch.
            numbers: Which evaluation images they are.
        """
        ...

    def score(self, outputs: Any) -> tuple[dict[str, Any], list[str]]:
        """`metrics`, `images`, `intervals` and more of an entry, and notes."""
        ...

    def per_image(self, outputs: Any) -> dict[str, np.ndarray]:
        """What was right of each image, as arrays, from which metrics of any images follow."""
        ...

    def unmeasured(self) -> tuple[dict[str, Any], list[str]]:
        """The same for a file of which outputs cannot be made."""
        ...

    def paired(self, reference: Any, outputs: Any) -> Paired:
        """The primary metric of two outputs for the same images, and the error of what is lost.

        Args:
            reference: Of the model that is compared with.
            outputs: Of the other one.
        """
        ...

    def compare(self, simulated: Any, outputs: Any) -> dict[str, Any]:
        """`agreement` and `max_abs_diff` of two outputs for the same images."""
        ...

    def compare_with_float(
        self, reference: Any, outputs: Any, quantized: Simulation, float_model: FloatModel
    ) -> dict[str, Any]:
        """What quantization changed, `agreement_with_float` and `sqnr_db` among it.

        Args:
            reference: The float model's outputs.
            outputs: The simulation's for the same images.
            quantized: The simulation.
            float_model: The float model, of the same regions.
        """
        ...

    def save(self, outputs: Any, path: Path) -> None:
        """Write the simulation's outputs as npz."""
        ...

    def load(self, path: Path) -> Any:
        """What `save` wrote."""
        ...

    def illustrate(self, folder: Path, name: str, reference: Any, outputs: Any) -> None:
        """Write pictures of a variant's outputs beside the float ones, where there are such.

        Args:
            folder: Where the pictures go.
            name: The variant's.
            reference: The float model's outputs.
            outputs: The variant's for the same images.
        """
        ...

    def coverage(self) -> Mapping[str, int]:
        """Of how many of the model's classes there are evaluation images."""
        ...

    def metadata(self) -> dict[str, Any]:
        """The metadata of a file: how it takes images, and which classes it gives."""
        ...


class TaskFile(Protocol):
    """What a task's file holds; its name is that of the task."""

    COLUMNS: Columns

    def claims(self, data: DataConfig) -> bool:
        """Whether `data` has a key that only images for this task have."""
        ...

    def open_task(
        self, asked: Asked, spec: ModelSpec, progress: Progress
    ) -> tuple[Task, DataConfig]:
        """The images for a model, and the data with what was resolved of it.

        Args:
            asked: The images, and how they are run.
            spec: The model.
            progress: Shows how far it is.

        Raises:
            SubbyteError: The images are not as they should be, or do not suit the model.
        """
        ...

    def calibration(
        self,
        source: str,
        spec: ModelSpec,
        asked: Mapping[str, Any],
        device: str,
        progress: Progress,
    ) -> tuple[Any, dict[str, Any]]:
        """Batches of calibration images alone, and how images are prepared, as metadata of a file.

        Args:
            source: A folder, or the name of bundled data.
            spec: The model, which lies on `device`.
            asked: `images` (how many at most), `seed`, `batch_size`, and `preprocessing`, which may
                be `None` or missing.
            device: "cpu" or "cuda".
            progress: Shows how far it is.

        Raises:
            SubbyteError: As `open_task` does.
        """
        ...

    def evaluate(
        self,
        file: OnnxFile,
        source: str,
        classes: Path | None,
        batch_size: int,
        progress: Progress,
    ) -> dict[str, Any]:
        """Metrics of a file on labelled images, and notes.

        Args:
            file: The file, in a runtime.
            source: A folder, or the name of bundled data.
            classes: A file with a class a line, as `data.classes`.
            batch_size: Images a batch.
            progress: Shows how far it is.
        """
        ...

    def predict(self, file: OnnxFile, images: Sequence[Path], top: int) -> list[dict[str, Any]]:
        """What is on each image.

        Args:
            file: The file, in a runtime.
            images: The image files.
            top: How many classes or objects of each image at most.
        """
        ...


@cache
def known() -> tuple[str, ...]:
    """The names of the tasks, sorted."""
    package = importlib.import_module("subbyte.tasks")
    files = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg]
    return tuple(sorted(name for name in files if hasattr(_file(name), "open_task")))


def task_file(name: str) -> TaskFile:
    """The file of the task of this name; raises `SubbyteError` if there is none."""
    if name not in known():
        raise unknown("task", name, known())
    return cast("TaskFile", _file(name))


def task_for(spec: ModelSpec, data: DataConfig, *, own: bool) -> TaskFile:
    """The task that a model is for.

    Args:
        spec: The model.
        data: The experiment's data.
        own: Whether the model is a user's own module; then `data` may decide.
    """
    claimed = [name for name in known() if own and task_file(name).claims(data)]
    return task_file(claimed[0] if claimed else spec.task)


def percent(share: float | None, digits: int = 2) -> str:
    """A share in per cent for a table; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.{digits}f}"


def one_image(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch's arguments with its first image alone."""
    return tuple(argument[:1] for argument in arguments)


def arrays(arguments: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """A file's arguments as a runtime takes them."""
    return tuple(argument.detach().cpu().numpy() for argument in arguments)


def _file(name: str) -> Any:
    return importlib.import_module(f"subbyte.tasks.{name}")
