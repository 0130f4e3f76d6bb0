"""What made figures of the bachelor project odd, shown on models and images that are at hand.

    python benchmarks/heritage.py ground-truth      half of the images against the truth of all
    python benchmarks/heritage.py thresholds        one detector at IoU 0.5 and at 0.2
    python benchmarks/heritage.py classes           390 of ImageNet's 1,000 classes

The first two run the bundled SSD on its own scenes, in float; the third MobileNetV2 on images of
$SUBBYTE_DATA.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from subbyte import models
from subbyte.data import open_evaluation
from subbyte.data.detection.dataset import DetectionBatches
from subbyte.data.detection.listing import Objects
from subbyte.data.detection.scenes import scenes
from subbyte.models.digits import CLASSES
from subbyte.tasks.metrics import coco, voc
from subbyte.tasks.metrics.detection import DetectionOutputs, outputs_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["ground-truth", "thresholds", "classes"])
    parser.add_argument("--scenes", type=int, default=100, help="that the SSD runs on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "classes":
        classes()
    else:
        {"ground-truth": ground_truth, "thresholds": thresholds}[options.what](options.scenes)


@torch.no_grad()
def detected(images: int) -> tuple[DetectionOutputs, list[Objects]]:
    """What the bundled SSD finds on evaluation scenes, and what is there."""
    model = models.load(models.ModelConfig(name="digit-scenes")).module.eval()
    batches = DetectionBatches(scenes("evaluation", range(images)), 20)
    found = [one for batch in batches for one in model(batch["inputs"])]
    truth = list(batches.objects)
    return outputs_of(found, [one.image_id for one in truth]), truth


def without(outputs: DetectionOutputs, share: float) -> DetectionOutputs:
    """The same with detections on the first images alone, as if the others had not been run."""
    run = round(outputs.images * share)
    boxes, scores, labels = (
        tuple(part if number < run else part[:0] for number, part in enumerate(parts))
        for parts in (outputs.boxes, outputs.scores, outputs.labels)
    )
    return replace(outputs, boxes=boxes, scores=scores, labels=labels)


def ground_truth(images: int) -> None:
    """Print AP of some images against the objects of all."""
    outputs, truth = detected(images)
    print("| images run | AP against their own objects | AP against those of all |")
    print("|---:|---:|---:|")
    for share in (1.0, 0.5, 0.1):
        run = range(round(outputs.images * share))
        own = coco.metrics(outputs.take(list(run)), truth, CLASSES).metrics["AP"]
        every = coco.metrics(without(outputs, share), truth, CLASSES).metrics["AP"]
        print(f"| {len(run)} of {outputs.images} | {own:.3f} | {every:.3f} |")


def thresholds(images: int) -> None:
    """Print AP of one detector at two IoU thresholds."""
    outputs, truth = detected(images)
    for least in (0.5, 0.2):
        found = np.mean(list(voc.per_class(outputs, truth, at_least=least).values()))
        print(f"IoU {least}: {found:.4f}")


@torch.no_grad()
def classes(some: int = 390) -> None:
    """Print top-1 on all classes, and on the first ones in the order of the folders."""
    root = Path(os.environ["SUBBYTE_DATA"]) / "imagenet"
    checkpoint = root / "mobilenet_v2-b0353104.pth"
    spec = models.load(models.ModelConfig(name="mobilenet_v2", checkpoint=checkpoint))
    model = spec.module.eval()
    opened = open_evaluation(str(root / "val"), spec.preprocessing, batch_size=50)
    right, labels = [], []
    for batch in opened.labelled(1000, spec.classes).batches:
        targets = torch.as_tensor(batch["targets"])
        right.append(model(batch["inputs"]).argmax(1) == targets)
        labels.append(targets)
    hits, numbers = torch.cat(right).double(), torch.cat(labels)
    for what, chosen in (
        ("all", numbers >= 0),
        ("first", numbers < some),
        ("others", numbers >= some),
    ):
        print(f"{what}: {int(chosen.sum())} images, top-1 {100 * float(hits[chosen].mean()):.2f} %")


if __name__ == "__main__":
    main()
