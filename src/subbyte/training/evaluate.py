"""What a trained SSD is worth: COCO's and Pascal VOC's metrics on images with objects."""

from __future__ import annotations

import torch

from subbyte.data.detection.dataset import DetectionBatches, DetectionDataset
from subbyte.models.ssd import SSD
from subbyte.tasks.metrics import coco, voc
from subbyte.tasks.metrics.detection import outputs_of
from subbyte.utils.progress import Progress, Silent

BATCH_SIZE = 16


def figures(
    model: SSD, dataset: DetectionDataset, progress: Progress | None = None
) -> dict[str, float | None]:
    """COCO's metrics and VOC's, as `subbyte.tasks` has them, of a model in evaluation mode.

    Args:
        model: Its labels 1, 2, … are those of the data set.
        dataset: The images, and what is on them.
        progress: Shows how far it is.
    """
    device = model.default_boxes().device
    batches = DetectionBatches(dataset, BATCH_SIZE, labelled=False)
    found = []
    with torch.no_grad():
        for batch in (progress or Silent()).track(batches, "evaluating", len(batches)):
            found += model([image.to(device) for image in batch["inputs"]])
    outputs = outputs_of(found, [objects.image_id for objects in dataset.objects])
    return {
        **coco.metrics(outputs, dataset.objects, dataset.classes).metrics,
        **voc.metrics(outputs, dataset.objects),
    }
