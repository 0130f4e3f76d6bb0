"""From a detector that Ultralytics has trained to a verified int8 file with boxes.

    pip install subbyte[onnxruntime] ultralytics
    python examples/ultralytics_yolo.py yolo11n.pt photographs/ yolo11n.int8.onnx

The file takes images [N, 3, H, W] in [0, 1] of the size that the network was trained with, and gives
`boxes`, `scores`, `labels` (from 1) and `count`. Ultralytics is not a dependency of Subbyte: it is
licensed under the AGPL-3.0, which is then that of your program too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxruntime
import torch
from torchvision.io import ImageReadMode, decode_image

import subbyte
from subbyte.detection import Outputs, Preprocessing

try:
    from ultralytics import YOLO
except ModuleNotFoundError:
    raise SystemExit("ultralytics is not installed: pip install ultralytics") from None

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def main(weights: str, folder: Path, out: Path, images: int = 100) -> float:
    """Quantize and export a detector; the largest difference of a score from the simulation's.

    Args:
        weights: The .pt file.
        folder: Photographs to calibrate with, of any sizes.
        out: The .onnx file to write.
        images: How many to calibrate with at most.
    """
    model = YOLO(weights)
    network, side = model.model.float().eval(), model.overrides.get("imgsz") or 640
    form = "detections" if getattr(network.model[-1], "end2end", False) else "decoded"
    outputs = Outputs(form=form, classes=len(model.names), take=[0])
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES][:images]
    batches = [[decode_image(str(path), ImageReadMode.RGB) / 255] for path in files]
    quantized = subbyte.quantize(
        network, batches, outputs=outputs, preprocessing=Preprocessing(letterbox=side)
    )
    example = quantized.normalized if hasattr(quantized, "normalized") else torch.rand(2, 3, side, side)
    subbyte.export(quantized, out, example, target="onnxruntime")
    return verified(quantized, out, example)


def verified(quantized: torch.nn.Module, out: Path, images: torch.Tensor) -> float:
    """The largest difference of a score between the file in ONNX Runtime and the simulation."""
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = [found["scores"] for found in quantized(images)]
    _, scores, _, counts = session.run(None, {"input": images.numpy()})
    worst = 0.0
    for row, count, known in zip(scores, counts, expected, strict=True):
        both = min(int(count), len(known))
        found = torch.from_numpy(row[:both])
        worst = max([worst, *(found - known[:both]).abs().tolist()])
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="FILE.pt, or a name that ultralytics downloads")
    parser.add_argument("folder", type=Path, help="photographs to calibrate with")
    parser.add_argument("out", type=Path, help="the .onnx file to write")
    given = parser.parse_args()
    difference = main(given.weights, given.folder, given.out)
    print(f"{given.out}: scores as the simulation's to {difference:.1e}")
