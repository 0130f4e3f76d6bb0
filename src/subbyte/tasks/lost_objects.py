"""What a variant's report shows of lost and gained objects: by class, and on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from subbyte.data.detection.opening import DetectionData
from subbyte.tasks.gallery import PICTURES, Shown, write_gallery
from subbyte.tasks.metrics.detection import DetectionOutputs
from subbyte.tasks.metrics.lost import by_class, lost_and_gained
from subbyte.utils import files


def write_objects(
    folder: Path,
    data: DetectionData,
    numbers: Sequence[int],
    outputs: tuple[DetectionOutputs, DetectionOutputs],
    threshold: float,
) -> None:
    """Write `objects.json`, and `gallery.json` with its pictures, the worst first.

    Args:
        folder: The variant's.
        data: What is on the evaluation images.
        numbers: Which of them the outputs are of.
        outputs: The float model's, and the variant's.
        threshold: The score from which on detections count.
    """
    floats, others, found = lost_and_gained(*outputs, threshold)
    summed = by_class(floats, others, found, data.classes)
    content = {"schema": 1, "threshold": threshold, "images": floats.images, **summed}
    files.write_json(folder / "objects.json", content)
    order = sorted(range(len(found)), key=lambda i: -found[i].cost)
    shown = []
    for i in order[:PICTURES]:
        if not found[i].cost:
            break
        truth = data.evaluation.objects[numbers[i]]
        counts = ~(truth.iscrowd | truth.difficult)
        said: dict[str, Any] = {
            "truth": _rows(truth.boxes[counts], truth.labels[counts]),
            "float": _rows(floats.boxes[i], floats.labels[i], floats.scores[i]),
            "quantized": _rows(others.boxes[i], others.labels[i], others.scores[i]),
            "lost": found[i].lost.tolist(),
            "gained": found[i].gained.tolist(),
            "kept": np.stack(found[i].kept, 1).tolist(),
        }
        shown.append(Shown(numbers[i], said))
    differ = sum(bool(len(one.lost) or len(one.gained)) for one in found)
    images = data.evaluation.dataset.images
    write_gallery(folder, "boxes", images, shown, images=floats.images, found=differ)


def _rows(
    boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None = None
) -> list[list[float]]:
    """Boxes as x0, y0, x1, y1, label and, of detections, score."""
    rows: list[list[float]] = []
    for i, box in enumerate(boxes.tolist()):
        row = [*(round(side, 1) for side in box), int(labels[i])]
        rows.append(row if scores is None else [*row, round(float(scores[i]), 4)])
    return rows
