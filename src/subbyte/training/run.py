"""A training, from an experiment's file to a folder that is a model's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from subbyte.data import open_detection
from subbyte.errors import SubbyteError
from subbyte.models.checkpoint import notes_of
from subbyte.models.ssd import SSD
from subbyte.training.config import TrainingExperiment
from subbyte.training.evaluate import figures
from subbyte.training.parallel import is_first
from subbyte.training.ssd import train
from subbyte.utils.files import write_text
from subbyte.utils.progress import Progress, Silent

FILE = "training.yaml"


@dataclass(frozen=True)
class Result:
    """What a training gave.

    Attributes:
        folder: A checkpoint.
        metrics: After the last epoch.
        rows: One an epoch, as logged.
        notes: What a reader of the figures must know.
    """

    folder: Path
    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    notes: list[str]


def run(
    asked: TrainingExperiment,
    out: Path | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Train as `asked`, evaluate on the evaluation side, and write a folder.

    Beside what `subbyte.training.ssd.train` writes, it holds the resolved experiment,
    training.yaml. Of several processes only the first shows progress.

    Args:
        asked: What to train, and on which images.
        out: The folder; `None`: trained/NAME.
        resume: Go on with a training in the folder.
        progress: Shows how far it is.

    Raises:
        SubbyteError: As `train`, and where the images cannot be opened or have no annotations.
    """
    progress = (progress if is_first() else None) or Silent()
    folder = out if out is not None else Path("trained") / asked.name
    data = open_detection(
        asked.data, seed=asked.training.seed, batch_size=1, progress=progress, whole=True
    )
    if not data.calibration.labelled:
        raise SubbyteError(
            "nothing says what is on the images to train on: give data.annotations.calibration, a "
            "JSON file in COCO's form"
        )
    start = asked.training
    notes = [*notes_of([start.checkpoint, start.backbone], start.checkpoint_key), *data.notes]
    if data.overlap:
        notes.append(f"{data.overlap} of the images trained on are evaluated too")
    if data.skipped:
        notes.append(f"{len(data.skipped)} broken images were skipped")

    def evaluation(model: SSD) -> Mapping[str, float | None]:
        return figures(model, data.evaluation.dataset)

    trained = train(
        asked.training,
        data.calibration.dataset.to_learn_from(),
        evaluation,
        folder,
        resume=resume,
        progress=progress,
    )
    if is_first():
        write_text(folder / FILE, dump(asked))
    return Result(folder, _metrics(trained.rows), trained.rows, notes)


def dump(asked: TrainingExperiment) -> str:
    """The experiment as YAML that `subbyte.app.experiment.load_training` reads back."""
    fields = asked.model_dump(mode="json")
    fields["data"] = asked.data.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Those of the last row, all of which are capitals; none where there are none."""
    last = rows[-1] if rows else {}
    return {k: v for k, v in last.items() if k[:1].isupper() and v is not None}
