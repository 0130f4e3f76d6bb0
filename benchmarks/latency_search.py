"""The fastest file by search, timed beside float and W8A8 in both runtimes.

    uv run python benchmarks/latency_search.py --json latency_search.json
    uv run python benchmarks/latency_search.py --json latency_search.json resnet18 mobilenet_v2

Each network is searched once for each runtime with `objective: latency` by `subbyte run`, and its
file is timed beside that of float and that of W8A8 by default: all take turns on one image and one
thread. Weights are random but for those of MobileNetV2, which are torchvision's where
`$SUBBYTE_DATA` is set. What is asked is how fast a file is, so accuracy is taken on random images
with the float model's own answers as labels, and nearly all of it may be lost. Printed are ratios
to the faster of float and W8A8 with 95 % intervals. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency import deployed, interleaved, ratio, said
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.functional import to_pil_image
from untrained import as_if_trained, pictures

from detectors import PLAIN, built, calm
from subbyte import models
from subbyte.app.experiment import Experiment
from subbyte.app.runner import run
from subbyte.data.preprocessing import Preprocessing
from subbyte.targets import base as targets
from subbyte.utils.files import write_json

CLASSIFIERS = ("resnet18", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
DETECTOR = "ssdlite320_mobilenet_v3_large"
RUNTIMES = ("onnxruntime", "openvino")
TRAINED = {"mobilenet_v2": "imagenet/mobilenet_v2-b0353104.pth"}
SIDE, CALIBRATION, EVALUATION = 224, 32, 48
KEPT = 5  # detections of an image that count as its objects, the surest
VARIANTS = {
    "w8a8": {"weights": 8, "activations": 8},
    **{
        runtime: {
            "method": "range",
            "search": {"max_drop": 99, "objective": "latency", "runtime": runtime, "weights": [8]},
        }
        for runtime in RUNTIMES
    },
}

Row = dict[str, Any]


def main() -> None:
    """Measure one network after the other; print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=[*CLASSIFIERS, DETECTOR])
    parser.add_argument("--json", type=Path, required=True, help="where results are kept")
    parser.add_argument("--loads", type=int, default=3, help="how often files are loaded anew")
    parser.add_argument("--rounds", type=int, default=30, help="turns for each load")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(name, Path(folder), options.loads, options.rounds)
        write_json(options.json, rows)
    print(*table(rows), sep="\n")


def measured(name: str, folder: Path, loads: int, rounds: int) -> list[Row]:
    """A row for each runtime."""
    prepare = detector if name == DETECTOR else classifier
    entry = {"name": name, "variants": VARIANTS, "runtimes": list(RUNTIMES), "batch_size": 8}
    experiment = Experiment.model_validate({**entry, **prepare(name, folder)})
    path, results = run(experiment, folder / "run")
    found = {variant["name"]: variant for variant in results["variants"]}
    example = pictures(1, 320 if name == DETECTOR else SIDE, PLAIN).numpy()
    rows = []
    for runtime in RUNTIMES:
        files = {
            "float": path / "float" / "model.onnx",
            "w8a8": own_file(path / "variants" / "w8a8", runtime),
            "search": own_file(path / "variants" / runtime, runtime),
        }
        seconds = timed(files, runtime, example, loads, rounds)
        faster = min(("float", "w8a8"), key=lambda who: float(np.median(seconds[who])))
        row: Row = {"network": name, "runtime": runtime, "faster": faster}
        row |= {who: 1000 * float(np.median(values)) for who, values in seconds.items()}
        row["ratio"] = ratio(seconds["search"], seconds[faster])
        row["layers"] = found[runtime]["layers"]
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def own_file(folder: Path, runtime: str) -> Path:
    """The file of a variant that a runtime runs."""
    own = folder / f"model.{runtime}.onnx"
    return own if own.exists() else folder / "model.onnx"


def timed(
    files: dict[str, Path], runtime: str, example: np.ndarray, loads: int, rounds: int
) -> dict[str, np.ndarray]:
    """Seconds of each file, (loads, rounds), all taking turns.

    Args:
        files: Who → file.
        runtime: What runs them.
        example: One image.
        loads: How often they are loaded anew.
        rounds: Turns for each load.
    """
    found = []
    for i in range(loads):
        sessions = {who: targets.runtime(runtime).load(file, 1) for who, file in files.items()}
        runs = {who: deployed(session, example) for who, session in sessions.items()}
        found.append(interleaved(runs, rounds, seed=i))
    return {who: np.stack([times[who] for times in found]) for who in files}


def classifier(name: str, folder: Path) -> Row:
    """A classifier's weights and images in `folder`, labelled by itself: keys of an experiment."""
    root = os.environ.get("SUBBYTE_DATA")
    trained = {"checkpoint": Path(root) / TRAINED[name]} if root and name in TRAINED else {}
    spec = models.load(models.ModelConfig(name=name, **trained))
    preprocessing = spec.preprocessing or Preprocessing()
    images = pictures(CALIBRATION + EVALUATION, SIDE, preprocessing)
    if not trained:
        as_if_trained(spec.module, images[:CALIBRATION])
    weights = saved(spec.module, folder)
    with torch.no_grad():
        answers = torch.cat([spec.module(batch) for batch in torch.split(images, 8)]).argmax(1)
    mean, std = (torch.tensor(x)[:, None, None] for x in (preprocessing.mean, preprocessing.std))
    for i, (image, answer) in enumerate(zip(images * std + mean, answers, strict=True)):
        part = "calibration" if i < CALIBRATION else f"evaluation/{answer}"
        write_image(image, folder / part / f"{i}.png")
    names = folder / "classes.txt"
    names.write_text("\n".join(map(str, range(1000))))
    return {
        "model": {"name": name, "checkpoint": weights},
        "data": {
            "calibration": folder / "calibration",
            "evaluation": folder / "evaluation",
            "classes": names,
            "preprocessing": {"resize": SIDE, "crop": SIDE},
        },
    }


def detector(name: str, folder: Path) -> Row:
    """A detector's weights and images in `folder`, its own surest detections being the objects.

    Args:
        name: Of the detector.
        folder: Where its files are written.
    """
    module, side = built(name)
    images = pictures(CALIBRATION + EVALUATION, side, PLAIN)
    as_if_trained(module, list(images[:8]))
    calm(module, list(images[:8]))
    for i, image in enumerate(images):
        write_image(image, folder / ("train" if i < CALIBRATION else "val") / f"{i}.png")
    with torch.no_grad():
        found = [module([image])[0] for image in images[CALIBRATION:]]
    objects: list[Row] = [
        {"image_id": CALIBRATION + i, "category_id": int(label), "bbox": box, "iscrowd": 0}
        for i, one in enumerate(found)
        for box, label in zip(as_xywh(one["boxes"][:KEPT]), one["labels"][:KEPT], strict=True)
    ]
    for i, one in enumerate(objects):
        one |= {"id": i + 1, "area": one["bbox"][2] * one["bbox"][3]}
    for part, numbers in {
        "train": range(CALIBRATION),
        "val": range(CALIBRATION, len(images)),
    }.items():
        entries = [
            {"id": i, "file_name": f"{i}.png", "height": side, "width": side} for i in numbers
        ]
        kinds = [{"id": i, "name": str(i)} for i in range(1, 21)]
        labels = objects if part == "val" else []
        annotations = {"images": entries, "annotations": labels, "categories": kinds}
        (folder / "annotations").mkdir(exist_ok=True)
        write_json(folder / "annotations" / f"instances_{part}.json", annotations)
    return {
        "model": {"name": name, "checkpoint": saved(module, folder), "num_classes": 21},
        "data": {"format": "coco", "root": folder},
    }


def as_xywh(boxes: torch.Tensor) -> list[list[float]]:
    """Boxes as COCO writes them."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()


def saved(module: nn.Module, folder: Path) -> Path:
    """The file of a module's weights."""
    path = folder / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, path)
    return path


def write_image(image: torch.Tensor, path: Path) -> None:
    """Write an image [3, H, W] of values from 0 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(image.clamp(0, 1)).save(path)


def table(rows: list[Row]) -> list[str]:
    """A table in Markdown."""
    lines = [
        "| Network | Runtime | float, ms | W8A8, ms | search, ms | search of the faster of both |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = " | ".join(f"{row[who]:.2f}" for who in ("float", "w8a8", "search"))
        lines.append(f"| {row['network']} | {row['runtime']} | {times} | {said(row['ratio'])} |")
    return lines


if __name__ == "__main__":
    main()
