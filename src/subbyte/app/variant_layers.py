"""What a run says of a variant's layers: what they clip, what saturates, which are at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from subbyte import api
from subbyte.app import diagnosing
from subbyte.app.report.tables import write_layers
from subbyte.calibration import clipping, saturation
from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Simulation
from subbyte.tasks.base import Task
from subbyte.utils.progress import Progress

CLIPPING_IMAGES = 64  # of the calibration: enough to compare, and few beside the evaluation


@dataclass(frozen=True)
class Counted:
    """What was counted while a variant ran.

    Attributes:
        evaluated: What each tensor of its placement clips of the evaluation images.
        calibrated: The same of calibration images.
        sums: Layer → its integer sums that saturate, where these are simulated.
    """

    evaluated: Sequence[Clipping]
    calibrated: Sequence[Clipping]
    sums: Mapping[str, Clipping]


def clipped_in_calibration(
    quantized: Simulation, name: str, task: Task, progress: Progress
) -> list[Clipping]:
    """What each tensor clips of some of the calibration images, for comparison.

    Args:
        quantized: The variant's model.
        name: The variant's.
        task: The images.
        progress: Shows how far it is.
    """
    batches = replace(task.data.calibration, limit=CLIPPING_IMAGES)
    run = task.simulated(quantized)
    with clipping.counting(quantized) as counts:
        for batch in progress.track(batches, f"{name}: counting clipped values"):
            run(batch["inputs"])
    return counts


def describe(
    folder: Path,
    name: str,
    quantized: Simulation,
    task: Task,
    counted: Counted,
    progress: Progress | None,
) -> tuple[dict[str, Any], list[str | None]]:
    """Write `layers.csv` and `diagnosis.json` of a variant.

    Args:
        folder: The variant's.
        name: The variant's.
        quantized: Its model.
        task: The images.
        counted: What was counted while it ran.
        progress: Shows how far the diagnosis is; `None`: there is to be none.

    Returns:
        What its entry of the results says of the layers, and notes.
    """
    rows = api.layers(quantized)
    evaluated, calibrated = counted.evaluated, counted.calibrated
    for row, now, before in zip(rows, evaluated, calibrated, strict=True):
        row["clipped"] = clipping.share(now)
        row["clipped_calibration"] = clipping.share(before)
    found = None
    if progress is not None:
        counts = (evaluated, calibrated)
        found = diagnosing.diagnose_variant(name, quantized, task, counts, progress)
        diagnosing.write(folder, found, rows)
    saturated = {layer: clipping.share(count) for layer, count in counted.sums.items()}
    write_layers(folder / "layers.csv", rows, quantized.placement.layers, saturated)
    entry = {
        "clipped_share": clipping.share(*evaluated),
        "clipped_share_calibration": clipping.share(*calibrated),
        "diagnosis": diagnosing.entry(found),
    }
    clipped = clipping.note(quantized, evaluated, calibrated)
    return entry, [clipped, saturation.note(quantized, counted.sums), diagnosing.note(found)]
