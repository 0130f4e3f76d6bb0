"""From a detector that Ultralytics has trained to a verified int8 file that gives boxes.

    pip install 'subbyte[onnxruntime]' ultralytics
    python examples/ultralytics_yolo.py yolo11n.pt photographs/ yolo11n.int8.onnx

The file takes images [N, 3, H, W] in [0, 1] and gives `boxes`, `scores`, `labels` (from 1) and
`count`. Ultralytics is licensed under the AGPL-3.0; Subbyte does not depend on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_tensor

import subbyte
from subbyte.detection import Outputs, Preprocessing

try:
    from ultralytics import YOLO
except ModuleNotFoundError:
    raise SystemExit("ultralytics is not installed: pip install ultralytics") from None

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def quantized_file(weights: str, folder: Path, out: Path, images: int = 100) -> float:
    """Quantize a detector and write it; the share of its detections that the file finds too.

    Args:
        weights: The .pt file.
        folder: Photographs of any sizes to calibrate with.
        out: The .onnx file to write.
        images: How many of them at most.
    """
    model = YOLO(weights)
    network, side = model.model.float().eval(), int(model.overrides.get("imgsz") or 640)
    form = "detections" if getattr(network.model[-1], "end2end", False) else "decoded"
    outputs = Outputs(form=form, classes=len(model.names), take=[0])
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    batches = [[to_tensor(Image.open(path).convert("RGB"))] for path in files[:images]]
    letterbox = Preprocessing(letterbox=side)
    quantized = subbyte.quantize(network, batches, outputs=outputs, preprocessing=letterbox)
    square = (side, side)
    first = torch.stack([torch.nn.functional.interpolate(x, square)[0] for x in _four(batches)])
    subbyte.export(quantized, out, first, target="onnxruntime")
    return found_again(quantized, out, first)


@torch.no_grad()
def found_again(quantized: torch.nn.Module, path: Path, images: torch.Tensor) -> float:
    """The share of the simulation's detections that the file finds in ONNX Runtime.

    Args:
        quantized: The simulation.
        path: The file.
        images: [N, 3, H, W].
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results = [torch.from_numpy(x) for x in session.run(None, {"input": images.numpy()})]
    found = total = 0
    for known, boxes, scores, labels, count in zip(quantized(images), *results, strict=True):
        near = box_iou(known["boxes"], boxes[:count]) > 0.9
        near &= (known["scores"][:, None] - scores[:count]).abs() < 0.02
        near &= known["labels"][:, None] == labels[:count]
        found, total = found + int(near.any(1).sum()), total + len(near)
    return found / total if total else 1.0


def _four(batches: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [image[None] for batch in batches[:4] for image in batch]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", help="FILE.pt, or a name that ultralytics downloads")
    parser.add_argument("folder", type=Path, help="photographs to calibrate with")
    parser.add_argument("out", type=Path, help="the .onnx file to write")
    given = parser.parse_args()
    share = quantized_file(given.weights, given.folder, given.out)
    print(f"{given.out}: {share:.1%} of the simulation's detections in ONNX Runtime")
