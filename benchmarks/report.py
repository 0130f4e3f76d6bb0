"""How long the page of a large run takes, how much memory, and how many bytes it has.

The run is made up: ResNet-50's layers, 1,000 classes, 5,000 images, three variants in two runtimes,
20 pictures each, everything recorded that a run can record.

    uv run python benchmarks/report.py
"""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageFilter

IMAGES, CLASSES, PICTURES = 5000, 1000, 20
RUNS = ("simulation", "onnxruntime", "openvino")
VARIANTS = {"w8a8": (8, 8, 0.001), "w4a8": (4, 8, 0.01), "w4a4": (4, 4, 0.06)}
BINS, CHANNELS = 64, 128  # of a histogram, and points of a band


def resnet50() -> list[str]:
    """The names of its layers, in network order."""
    names = ["conv1"]
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            names += [f"layer{stage}.{block}.conv{i}" for i in (1, 2, 3)]
            names += [f"layer{stage}.{block}.downsample.0"] * (block == 0)
            names.append(f"layer{stage}.{block}.add")
    return [*names, "fc"]


def diagnosis(names: Sequence[str], bits: tuple[int, int], seed: int = 0) -> dict[str, Any]:
    """What a run records of its layers, made up.

    Args:
        names: The layers'.
        bits: Of weights and activations.
        seed: Of the numbers.
    """
    chance = np.random.default_rng(seed)
    shares = chance.dirichlet(np.full(len(names), 0.3))
    order = np.argsort(-shares)[:3].tolist()
    layers = [_layer(name, bits, float(shares[i]), i, chance) for i, name in enumerate(names)]
    return {
        "schema": 1,
        "images": 16,
        "alone_images": 8,
        "seconds": 3.2,
        "output_error": 0.0123,
        "output_db": 19.1,
        "outputs": {"output": 0.0123},
        "loss": 0.031,
        "layers": layers,
        "advice": [
            {
                "layers": [names[i]],
                "sentence": f"{names[i]} adds {100 * shares[i]:.0f} % of what all layers lose.",
                "helps": "give its activation 8 bits",
                "overrides": f"overrides: {{'{names[i]}': {{activations: 8}}}}",
            }
            for i in order
        ],
    }


def _layer(
    name: str, bits: tuple[int, int], share: float, i: int, chance: np.random.Generator
) -> dict[str, Any]:
    """One layer.

    Args:
        name: Its name.
        bits: Of weights and activations.
        share: Its share of what all lose.
        i: Its place.
        chance: Makes numbers.
    """
    is_operation = name.endswith("add")
    half = np.abs(chance.normal(0.3, 0.1, CHANNELS)) + 0.05
    values = np.abs(chance.normal(0, 1, 20_000))
    counts, edges = np.histogram(values, BINS)
    steps, high = 2 ** bits[1], float(np.quantile(values, 0.999))
    weight = {
        "bits": bits[0],
        "symmetric": False,
        "per_channel": True,
        "values": 36_864,
        "sqnr_db": 6.02 * bits[0] + float(chance.normal()),
        "low": -float(half.max()),
        "high": float(half.max()),
        "channels": {
            "count": 512,
            "low": (-half * chance.uniform(0.7, 1, CHANNELS)).tolist(),
            "high": (half * chance.uniform(0.7, 1, CHANNELS)).tolist(),
            "grid_low": (-half).tolist(),
            "grid_high": half.tolist(),
        },
    }
    activation = {
        "tensor": name,
        "bits": bits[1],
        "symmetric": False,
        "scale": high / (steps - 1),
        "zero_point": 0,
        "grid_low": 0.0,
        "grid_high": high,
        "steps": steps,
        "sqnr_db": 6.02 * bits[1] + float(chance.normal()),
        "clipped": 0.0012,
        "clipped_calibration": 0.001,
        "low": 0.0,
        "high": float(values.max()),
        "histogram": {"low": 0.0, "high": float(edges[-1]), "counts": counts.tolist()},
        "readers": [name],
    }
    alone = float(30 - 10 * np.log10(max(share * 50, 1e-3)))
    return {
        "layer": name,
        "kind": "operation" if is_operation else "linear" if name == "fc" else "conv",
        "region": "",
        "left_in_float": "",
        "weight": None if is_operation else weight,
        "activations": [activation],
        "own_error": 0.003,
        "own_db": 25.1,
        "alone_error": 10 ** (-alone / 10),
        "alone_db": alone,
        "alone_loss": share * 0.03,
        "alone_share": share,
        "accumulated_error": 0.01,
        "accumulated_db": 30 - 0.2 * i + float(chance.normal()),
    }


def learning(names: Sequence[str]) -> dict[str, Any]:
    """The curves of a method that learns block by block and tunes afterwards, made up."""
    steps = list(range(0, 2000, 20))
    losses = [0.9 * float(np.exp(-step / 500)) + 0.1 for step in steps]
    curves = [
        {"stage": "learning blocks", "name": name, "try": 1, "steps": steps, "losses": losses}
        | {"first": losses[0], "last": losses[-1]}
        for name in names
    ]
    tuning = "tuning the network"
    whole = {"stage": tuning, "name": "", "try": 1, "first": losses[0], "last": losses[-1]}
    curves.append(whole | {"held_out": False, "steps": steps, "losses": losses})
    curves.append(whole | {"held_out": True, "steps": [0, 1000], "losses": [0.8, 0.3]})
    return {"schema": 1, "curves": curves}


def make_run(folder: Path, images: int = IMAGES) -> None:
    """Write the folder of a run.

    Args:
        folder: A new one.
        images: How many were evaluated.
    """
    chance, names = np.random.default_rng(0), resnet50()
    labels = chance.integers(0, CLASSES, images)
    answers = _answers(labels, 0.24, chance)
    entries = {"float": _entry(answers, labels, None)}
    (folder / "float").mkdir(parents=True)
    _write(folder / "float/float.json", entries["float"])
    _write(folder / "float/classes.json", [f"class {i}, <of> birds & more" for i in range(CLASSES)])
    keys = np.arange(images, dtype=np.uint64)
    _images(folder / "float/images.npz", labels, answers, {"keys": keys})
    for name, (weights, activations, differ) in VARIANTS.items():
        own = folder / "variants" / name
        own.mkdir(parents=True)
        theirs = _answers(answers, differ, chance)
        entries[name] = _entry(theirs, labels, answers)
        entries[name] |= {"name": name, "weights": weights, "activations": activations}
        entries[name] |= {"method": "subbyte", "seconds": 512.3, "notes": []}
        entries[name]["blocks"] = [
            {"block": n, "seconds": 4.2, "fell_back": i == 7, "why": "nothing better was found"}
            for i, n in enumerate(names)
        ]
        _write(own / "variant.json", entries[name])
        _write(own / "diagnosis.json", diagnosis(names, (weights, activations)))
        _write(own / "learning.json", learning(names))
        _images(own / "images.npz", labels, theirs, {})
        _layers(own / "layers.csv", names, weights, activations)
        _gallery(own, labels, answers, theirs, chance)
    known = {"weights": 8, "activations": 8}
    experiment = {"name": "resnet50", "model": {"name": "resnet50"}, "data": {"root": "imagenet"}}
    experiment["variants"] = dict.fromkeys(VARIANTS, known)
    text = yaml.safe_dump(experiment, sort_keys=False)
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")
    _write(folder / "environment.json", {"subbyte": "0", "python": "3", "command": "subbyte run x"})
    results = {"schema": 1, "experiment": "resnet50", "model": "resnet50", "seed": 0}
    results |= {"task": "classification", "primary_metric": "top1", "notes": [], "errors": {}}
    results |= {"calibration_images": 1024, "evaluation_images": images, "float": entries["float"]}
    results["variants"] = [entries[name] for name in VARIANTS]
    _write(folder / "results.json", results)


def _answers(right: np.ndarray, share: float, chance: np.random.Generator) -> np.ndarray:
    """Answers of which a share is another one."""
    others = chance.integers(0, CLASSES, len(right))
    return np.where(chance.random(len(right)) < share, others, right).astype(np.int32)


def _entry(answers: np.ndarray, labels: np.ndarray, before: np.ndarray | None) -> dict[str, Any]:
    top1 = float((answers == labels).mean())
    its: dict[str, Any] = {"metrics": {"top1": top1, "top5": 0.93}, "images": len(labels)}
    its["intervals"] = {"top1": [top1 - 0.012, top1 + 0.012]}
    if before is not None:
        change = top1 - float((before == labels).mean())
        ends = [change - 0.004, change + 0.004]
        its["against_float"] = {"change": change, "interval": ends, "images": len(labels)}
    deployed = {
        name: {**its, "latency_ms": 9.1 + i, "agreement": 0.998, "simulated": its["metrics"]}
        for i, name in enumerate(RUNS[1:])
    }
    size = 102_000_000 if before is None else 26_000_000
    return {**its, "deployed": deployed, "size_bytes": size, "agreement_with_float": 0.97}


def _images(
    path: Path, labels: np.ndarray, answers: np.ndarray, more: dict[str, np.ndarray]
) -> None:
    arrays: dict[str, Any] = dict(more)
    for run in RUNS:
        arrays[f"{run}.numbers"] = np.arange(len(labels), dtype=np.int32)
        arrays[f"{run}.labels"] = labels.astype(np.int32)
        arrays[f"{run}.answers"] = answers
        arrays[f"{run}.top1"] = answers == labels
        arrays[f"{run}.probabilities"] = np.full(len(labels), 0.7, np.float32)
    np.savez_compressed(path, **arrays)


def _layers(path: Path, names: Sequence[str], weights: int, activations: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("layer", "role", "bits", "sqnr_db"))
        writer.writeheader()
        for name in names:
            for role, bits in (("weight", weights), ("activation", activations)):
                writer.writerow({"layer": name, "role": role, "bits": bits, "sqnr_db": 20.0})


def _gallery(
    folder: Path,
    labels: np.ndarray,
    answers: np.ndarray,
    theirs: np.ndarray,
    chance: np.random.Generator,
) -> None:
    """Pictures that compress about as photographs do.

    Args:
        folder: The variant's.
        labels: Of the images.
        answers: The float model's.
        theirs: The variant's.
        chance: Makes pixels.
    """
    (folder / "gallery").mkdir()
    pictures = []
    for number in np.flatnonzero(answers != theirs)[:PICTURES].tolist():
        pixels = chance.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))
        image.save(folder / f"gallery/{number}.jpg", quality=80)
        about = {"image": number, "name": f"val/n01/{number}.JPEG", "width": 224, "height": 224}
        said = {"label": int(labels[number]), "float": [int(answers[number]), 0.91]}
        said["quantized"] = [int(theirs[number]), 0.88]
        pictures.append({**about, "file": f"gallery/{number}.jpg", **said})
    known = {"schema": 1, "kind": "answers", "images": len(labels)}
    found = int((answers != theirs).sum())
    _write(folder / "gallery.json", {**known, "found": found, "pictures": pictures})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def main() -> None:
    """Make the page of such a run, and say what that took."""
    with TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        make_run(run)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "subbyte", "report", str(run), "--quiet"], check=True)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        size = (run / "report.html").stat().st_size / 1e6
        print(f"{seconds:.1f} s, {peak:.0f} MB at the peak, a page of {size:.2f} MB")


if __name__ == "__main__":
    main()
