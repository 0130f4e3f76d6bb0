"""RapidOCR's text detector, recognizer and direction classifier, from their ONNX files to W8A8.

    python benchmarks/ocr.py --json ocr.json
    python benchmarks/ocr.py --only detector --method range

The three files come with the package rapidocr (3.10, Apache-2.0; `pip install rapidocr`, which is
not a dependency). Images are pages and lines of text that Pillow draws: letters and digits, several
sizes of letters, light and dark paper, noise. 16 pages (320 × 320), 64 lines (48 × 320) and 64
words (48 × 192) calibrate, 8, 32 and 32 others are measured. Every file is loaded as it is. The row
of a network says how many layers are quantized and run with int8 kernels, how far each runtime's
own file is from the simulation and the simulation from itself (*nudged*, as in
docs/notebook/random-detectors.md), what is kept of the float file's result, and the processor time
of the float file over that of the quantized one for one image, one thread, files taking turns. What
is kept: of the detector, the IoU of the maps above the threshold 0.3 of all pages; of the
recognizer, the share of lines read alike; of the classifier, the share of words with the same
direction.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from untrained import nudged, simulation_for

import subbyte
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import runtime

RUNTIMES = ("onnxruntime", "openvino")
THRESHOLD = 0.3  # of RapidOCR's detector, for pixels of text
ROUNDS, AT_ONCE = 30, 4  # rounds of timing; images in a batch
Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """One of the three files.

    file: its name. size: height and width of its images. counts: how many calibrate, how many are
    measured. draw: makes an image. kept: of float and quantized outputs, how much is the same.
    """

    file: str
    size: tuple[int, int]
    counts: tuple[int, int]
    draw: Callable[[random.Random, tuple[int, int]], Image.Image]
    kept: Callable[[np.ndarray, np.ndarray], float]


def main() -> None:
    """Measure one network after the other, print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=NETWORKS, nargs="*", default=list(NETWORKS))
    parser.add_argument("--method", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name in options.only:
        rows[name] = measure(NETWORKS[name], subbyte.Recipe(method=options.method))
        print(name, json.dumps(rows[name]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))
    print(*table(rows), sep="\n")


@torch.no_grad()
def measure(network: Network, recipe: subbyte.Recipe) -> Row:
    """What is said of one network."""
    path, drawn = models() / network.file, images(network)
    calibration, held_out = torch.split(drawn, list(network.counts))
    started = time.perf_counter()
    quantized = subbyte.quantize(path, list(torch.split(calibration, AT_ONCE)), recipe)
    layers = quantized.placement.layers
    row: Row = {"layers": len(layers), "integer": sum(layer.integer for layer in layers)}
    row["seconds"] = round(time.perf_counter() - started)
    row["in float"] = {layer.name: layer.reason for layer in layers if not layer.integer}
    expected = outputs(runtime("onnxruntime").load(path, 1), held_out)
    row["simulation"] = network.kept(expected, quantized(held_out).numpy())
    for name in RUNTIMES:
        row[name] = in_runtime(name, network, path, quantized, held_out, expected)
    return row


def in_runtime(
    name: str,
    network: Network,
    path: Path,
    quantized: Simulation,
    held_out: torch.Tensor,
    expected: np.ndarray,
) -> Row:
    """What is said of one runtime's own file; `expected`: the float file's outputs."""
    simulated = simulation_for(name, quantized)
    right = simulated(held_out).numpy()
    with nudged(simulated):
        again = simulated(held_out).numpy()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        subbyte.export(quantized, file, held_out[:AT_ONCE], target=name)
        sessions = {"float": runtime(name).load(path, 1), "int8": runtime(name).load(file, 1)}
        found = outputs(sessions["int8"], held_out)
        return {
            "int8": sessions["int8"].int8_ops(),
            "dB": sqnr_db(right, found),
            "nudged dB": sqnr_db(right, again),
            "float file dB": sqnr_db(expected, outputs(sessions["float"], held_out)),
            "kept": network.kept(expected, found),
            **times(sessions, held_out[:1].numpy()),
        }


def times(sessions: dict[str, Any], image: np.ndarray) -> Row:
    """Milliseconds of each session, and float over int8, by the median of rounds in turns."""
    taken: dict[str, list[float]] = {which: [] for which in sessions}
    for i in range(ROUNDS + 3):
        for which in sorted(sessions, reverse=bool(i % 2)):
            started = time.process_time()
            sessions[which].run(image)
            if i >= 3:
                taken[which].append(1000 * (time.process_time() - started))
    ratio = median(a / b for a, b in zip(taken["float"], taken["int8"], strict=True))
    return {
        **{f"{which} ms": round(median(own), 2) for which, own in taken.items()},
        "ratio": ratio,
    }


def outputs(session: Any, batch: torch.Tensor) -> np.ndarray:
    """What a file gives, a few images at a time."""
    parts = [session.run(part.numpy())[0] for part in torch.split(batch, AT_ONCE)]
    return np.concatenate(parts)


def sqnr_db(expected: np.ndarray, found: np.ndarray) -> float:
    """Energy of what is expected, less its mean, over that of the error."""
    error = np.square(expected.astype(np.float64) - found).sum()
    signal = np.square(expected - expected.mean(dtype=np.float64)).sum()
    return round(10 * float(np.log10(signal / max(error, 1e-30))), 1)


def models() -> Path:
    """The folder of the package's files."""
    found = find_spec("rapidocr")
    if found is None or found.origin is None:
        raise SystemExit("rapidocr is not installed: pip install rapidocr")
    return Path(found.origin).parent / "models"


def images(network: Network) -> torch.Tensor:
    """All images of a network, in [-1, 1]."""
    chance = random.Random(0)
    drawn = [network.draw(chance, network.size) for _ in range(sum(network.counts))]
    noise = np.random.default_rng(0)
    pixels = np.stack([np.asarray(image, np.float32) for image in drawn])
    pixels = np.clip(pixels + noise.normal(0, 6, pixels.shape), 0, 255)
    return torch.from_numpy((pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))


def words(chance: random.Random, count: int) -> str:
    """Words of letters and digits."""
    signs = string.ascii_letters + string.digits
    return " ".join("".join(chance.choices(signs, k=chance.randint(2, 9))) for _ in range(count))


def colours(chance: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of paper and letters."""
    light = tuple(chance.randint(180, 255) for _ in range(3))
    dark = tuple(chance.randint(0, 90) for _ in range(3))
    return (light, dark) if chance.random() < 0.7 else (dark, light)


def page(chance: random.Random, size: tuple[int, int]) -> Image.Image:
    """Lines of several sizes, one below the other."""
    height, width = size
    paper, ink = colours(chance)
    image = Image.new("RGB", (width, height), paper)
    draw, top = ImageDraw.Draw(image), chance.randint(5, 30)
    while top < height - 15:
        letters = chance.randint(10, 34)
        font = ImageFont.load_default(letters)
        left = chance.randint(0, width // 3)
        draw.text((left, top), words(chance, chance.randint(1, 4)), ink, font)
        top += round(letters * chance.uniform(1.3, 3))
    return image


def line(chance: random.Random, size: tuple[int, int]) -> Image.Image:
    """One line that fills the height."""
    height, width = size
    paper, ink = colours(chance)
    image = Image.new("RGB", (width, height), paper)
    font = ImageFont.load_default(chance.randint(24, 36))
    ImageDraw.Draw(image).text((6, chance.randint(0, 8)), words(chance, 3), ink, font)
    return image


def word(chance: random.Random, size: tuple[int, int]) -> Image.Image:
    """One line, upside down every second time."""
    image = line(chance, size)
    return image.rotate(180) if chance.random() < 0.5 else image


def overlap(expected: np.ndarray, found: np.ndarray) -> float:
    """IoU of the pixels above the threshold."""
    ours, theirs = found > THRESHOLD, expected > THRESHOLD
    return round(float((ours & theirs).sum() / (ours | theirs).sum()), 4)


def read_alike(expected: np.ndarray, found: np.ndarray) -> float:
    """Share of lines of which the same text is read."""
    pairs = zip(expected.argmax(-1), found.argmax(-1), strict=True)
    return round(float(np.mean([text(one) == text(other) for one, other in pairs])), 4)


def text(classes: np.ndarray) -> list[int]:
    """What a line says: repetitions and blanks (0) left out."""
    return [int(n) for i, n in enumerate(classes) if n and (i == 0 or n != classes[i - 1])]


def same_class(expected: np.ndarray, found: np.ndarray) -> float:
    """Share of images with the same class."""
    return round(float((expected.argmax(-1) == found.argmax(-1)).mean()), 4)


def table(rows: dict[str, Row]) -> list[str]:
    """The rows as Markdown: one for each network and runtime."""
    lines = [
        "| Network | Runtime | int8 layers | dB | nudged dB | kept | ms, float | ms, int8 | times "
        "as fast |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        for key in RUNTIMES:
            own = row[key]
            layers = f"{own['int8']} of {row['layers']}"
            lines.append(
                f"| {name} | {key} | {layers} | {own['dB']} | {own['nudged dB']} | {own['kept']} | "
                f"{own['float ms']} | {own['int8 ms']} | {own['ratio']:.2f} |"
            )
    return lines


NETWORKS = {
    "detector": Network("PP-OCRv6_det_small.onnx", (320, 320), (16, 8), page, overlap),
    "recognizer": Network("PP-OCRv6_rec_small.onnx", (48, 320), (64, 32), line, read_alike),
    "classifier": Network(
        "ch_ppocr_mobile_v2.0_cls_mobile.onnx", (48, 192), (64, 32), word, same_class
    ),
}

if __name__ == "__main__":
    main()
