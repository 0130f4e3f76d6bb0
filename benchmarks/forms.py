"""TensorRT's form and QONNX beside the file for all runtimes: top-1 on the same real images.

    uv run python benchmarks/forms.py resnet20 --images 10000
    uv run python benchmarks/forms.py mobilenet_v2 --images 1000 --arrays images.npz
    python benchmarks/forms.py mobilenet_v2 --arrays images.npz --other modelopt.onnx

The weights and images are those of $SUBBYTE_DATA. Models are quantized by ranges alone. TensorRT's
form runs in ONNX Runtime, beside its simulation. QONNX itself takes the first --qonnx images alone.
--arrays keeps the float model and the calibration and evaluation images, by which another tool
quantizes too (benchmarks/with_modelopt.py); --other measures its file on the same images.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import subbyte
from subbyte import api, models
from subbyte.data.preprocessing import Preprocessing
from subbyte.placement.simulation import Simulation
from subbyte.targets import base
from subbyte.targets.onnx.export import export_float

BATCH = 50
RECIPES: dict[str, dict[str, Any]] = {
    "for all runtimes, W8A8": {},
    "tensorrt, W8A8": {"target": "tensorrt"},
    "tensorrt, W4A4": {"target": "tensorrt", "weights": 4, "activations": 4},
    "qonnx, W4A4": {"target": "qonnx", "weights": 4, "activations": 4},
}
Run = Callable[[torch.Tensor], np.ndarray]


def main() -> None:
    """Measure each form, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=("resnet20", "mobilenet_v2"))
    parser.add_argument("--images", type=int, default=1000, help="of the evaluation")
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--qonnx", type=int, default=0, help="images that QONNX runs")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="ROW")
    parser.add_argument("--files", action="store_true", help="files alone, without simulations")
    parser.add_argument("--arrays", type=Path, help="the images, and float.onnx beside them")
    parser.add_argument("--other", type=Path, help="another tool's ONNX file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    module, preprocessing, root = opened(options.model)
    images, labels = evaluation(root, preprocessing, options.images)
    print(f"| {options.model}, {len(images)} images | simulation | file | same top-1 |")
    print("|---|---:|---:|---:|")
    if options.other is not None:
        report(options.other.name, None, in_batches(deployed(options.other), images), labels)
        return
    batches = calibration(root, preprocessing, options.calibration)
    if not options.files:
        report("float", in_batches(simulated(module), images), None, labels)
    if options.arrays is not None:
        keep(module, batches, images, options.arrays)
    for name in options.only:
        recipe = subbyte.Recipe(method="range", **RECIPES[name])
        if recipe.target == "qonnx" and not options.qonnx:
            continue
        limit = options.qonnx if recipe.target == "qonnx" else len(images)
        quantized = subbyte.quantize(module, batches, recipe)
        shown = None if options.files else in_batches(simulated(quantized), images[:limit])
        report(name, shown, of_file(quantized, images[:limit]), labels[:limit])


def opened(name: str) -> tuple[nn.Module, Preprocessing, Path]:
    """A model, how its images are prepared, and where they lie."""
    if "SUBBYTE_DATA" not in os.environ:
        sys.exit("SUBBYTE_DATA is not set: it names the folder of real data")
    root = Path(os.environ["SUBBYTE_DATA"])
    known = {
        "resnet20": ("cifar_resnet20", root / "cifar10", "resnet20-12fca82f.th"),
        "mobilenet_v2": ("mobilenet_v2", root / "imagenet", "mobilenet_v2-b0353104.pth"),
    }
    model, folder, checkpoint = known[name]
    spec = models.load(models.ModelConfig(name=model, checkpoint=folder / checkpoint))
    assert spec.preprocessing is not None
    return spec.module.eval(), spec.preprocessing, folder


def evaluation(
    root: Path, preprocessing: Preprocessing, count: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Images of all classes in turn, and their labels."""
    folder = root / ("test" if (root / "test").is_dir() else "val")
    classes = [sorted(each.iterdir()) for each in sorted(folder.iterdir()) if each.is_dir()]
    files = [
        (path, label)
        for row in range(max(map(len, classes)))
        for label, its in enumerate(classes)
        for path in its[row : row + 1]
    ]
    read = torch.stack([prepared(path, preprocessing) for path, _ in files[:count]])
    return read, np.array([label for _, label in files[:count]])


def calibration(root: Path, preprocessing: Preprocessing, count: int) -> list[torch.Tensor]:
    """Training images, in batches."""
    folder = root / ("train" if (root / "train").is_dir() else "calibration")
    files = sorted(folder.rglob("*.jpg"))
    chosen = files[:: max(1, len(files) // count)][:count]
    read = torch.stack([prepared(path, preprocessing) for path in chosen])
    return list(torch.split(read, BATCH))


def prepared(path: Path, preprocessing: Preprocessing) -> torch.Tensor:
    """The middle of an image whose short side is what the model's recipe resizes to already."""
    with Image.open(path) as opened_image:
        pixels = torch.from_numpy(np.asarray(opened_image.convert("RGB")).copy())
    image, side = pixels.permute(2, 0, 1).float() / 255, 32 if len(pixels) <= 32 else 224
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    mean, std = (
        torch.tensor(value)[:, None, None] for value in (preprocessing.mean, preprocessing.std)
    )
    cut: torch.Tensor = (image[:, top : top + side, left : left + side] - mean) / std
    return cut


def keep(module: nn.Module, batches: list[torch.Tensor], images: torch.Tensor, path: Path) -> None:
    """Write what another tool needs to quantize the same model by the same images."""
    np.savez(path, calibration=torch.cat(batches).numpy(), evaluation=images.numpy())
    plain = api.unquantized(api.capture(module, (batches[0],)))
    export_float(plain, path.with_name("float.onnx"), (batches[0][:2],))


def simulated(module: nn.Module) -> Run:
    """What a module gives."""

    @torch.no_grad()
    def run(x: torch.Tensor) -> np.ndarray:
        found: np.ndarray = module(x).numpy()
        return found

    return run


def deployed(path: Path, runtime: str = "onnxruntime") -> Run:
    """What a file gives."""
    return base.deployed(base.runtime(runtime).load(path, 1))


def of_file(quantized: Simulation, images: torch.Tensor) -> np.ndarray:
    """What the file of a model's own target gives for all images."""
    target = quantized.placement.recipe.target
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.qonnx.onnx" if target == "qonnx" else "model.onnx")
        subbyte.export(quantized, path, images[:2])
        return in_batches(deployed(path, "qonnx" if target == "qonnx" else "onnxruntime"), images)


def in_batches(run: Run, images: torch.Tensor) -> np.ndarray:
    """The logits of all images."""

    def parts() -> Iterator[np.ndarray]:
        for batch in torch.split(images, BATCH):
            yield run(batch)

    return np.concatenate(list(parts()))


def report(
    name: str, shown: np.ndarray | None, found: np.ndarray | None, labels: np.ndarray
) -> None:
    """Print a row of the table."""
    cells = [
        "" if logits is None else f"{100 * (logits.argmax(1) == labels).mean():.2f} %"
        for logits in (shown, found)
    ]
    both = shown is not None and found is not None
    same = f"{100 * (shown.argmax(1) == found.argmax(1)).mean():.2f} %" if both else ""  # type: ignore[union-attr]
    print(f"| {name} | {cells[0]} | {cells[1]} | {same} |", flush=True)


if __name__ == "__main__":
    main()
