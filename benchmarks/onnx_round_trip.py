"""torchvision's networks written as ONNX by PyTorch's exporters, read back, and compared.

    uv run python benchmarks/onnx_round_trip.py --json round_trip.json
    uv run python benchmarks/onnx_round_trip.py --only resnet18 vit_b_32 --exporters dynamo

One member of each family of classifiers, and the networks of the detectors (backbone and heads;
their own code around these is not in the files). Weights are random, and let images through as
trained ones do. `dynamo` is `torch.onnx.export` as it is by default, `torchscript` with
`dynamo=False`. Compared with the module itself: the outputs in float, relative to the largest, of
another number of images (*rounding*: how far the module in float32 is from itself in float64); the
layers, and how many of them are placed on integers; and, with `--int8`, how many int8 kernels each
runtime's own file has. Each network is a process of its own; results are kept in the JSON file as
they come.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from collecting import Row, collect
from torch import nn
from torch.utils import _pytree as pytree
from torchvision.models import detection
from untrained import as_if_trained, pictures

import subbyte
from subbyte import targets
from subbyte.api import capture
from subbyte.data.preprocessing import Preprocessing
from subbyte.graph.float_model import FloatModel
from subbyte.models.onnx.load import load_onnx
from subbyte.placement.place import place
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import runtime

EXPORTERS = ("dynamo", "torchscript")
RUNTIMES = ("onnxruntime", "openvino")
RECIPE = subbyte.Recipe(method="range", ranges="minmax")
TRAINING, BATCH = 8, 2  # images
CLASSIFIERS = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_0": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11_bn": 64,
    "vit_b_32": 64,
    "wide_resnet50_2": 64,
}
DETECTORS = {
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "retinanet_resnet50_fpn": 128,
    "retinanet_resnet50_fpn_v2": 128,
    "fcos_resnet50_fpn": 128,
    "fasterrcnn_resnet50_fpn": 128,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 128,
}
PLAIN = Preprocessing(mean=(0.45, 0.45, 0.45), std=(0.23, 0.23, 0.23))


class Heads(nn.Module):
    """What a detector's network gives, in one tuple: the backbone and the heads that read it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.rpn.head if hasattr(model, "rpn") else model.head

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The leaves of what the head gives."""
        features = self.backbone(images)
        features = [features] if isinstance(features, torch.Tensor) else list(features.values())
        return tuple(pytree.tree_leaves(self.head(features)))


def main() -> None:
    """Measure what is missing in the JSON file and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*CLASSIFIERS, *DETECTORS]
    parser.add_argument("--only", nargs="*", choices=names, help="measured anew")
    parser.add_argument("--exporters", nargs="*", choices=EXPORTERS, default=list(EXPORTERS))
    parser.add_argument("--int8", action="store_true", help="count int8 kernels too")
    parser.add_argument("--json", type=Path, default=Path("round_trip.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        row = measure(options.one, options.exporters, options.int8)
        options.json.write_text(json.dumps(row))
        return
    more = ["--exporters", *options.exporters, *(["--int8"] if options.int8 else [])]
    rows = collect(__file__, options.json, names, options.only, more, shown)
    for name, row in rows.items():
        print(shown(name, row))


def shown(name: str, row: Row) -> str:
    """A row as a line."""
    return f"{name}: {json.dumps(row)}"


@torch.no_grad()
def measure(name: str, exporters: list[str], int8: bool) -> Row:
    """The row of one network: that of the module, and of each exporter's file."""
    module, seen = built(name)
    images, other = seen[:BATCH], seen[: BATCH + 1]
    expected = leaves(module(other))
    float_model = capture(module, (images,))
    row: Row = {"module": described(float_model, images, int8)}
    exact = leaves(copy.deepcopy(module).double()(other.double()))
    row["rounding"] = max(map(off, exact, expected))
    for exporter in exporters:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            try:
                written(module, images, path, exporter)
            except Exception as error:  # the exporter's own
                row[exporter] = {"not written": f"{type(error).__name__}: {error}"[:200]}
                continue
            read = load_onnx(path)
            found = leaves(read(other))
            captured = capture(read, (images,))
            own = described(captured, images, int8)
        own["off"] = max(map(off, expected, found))
        own["off captured"] = max(map(off, expected, leaves(captured(other))))
        same = Counter(float_model.layer_names) == Counter(captured.layer_names)
        row[exporter] = own | {"same names": same, "seconds": round(time.perf_counter() - started)}
    return row


def built(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network in evaluation mode and its images."""
    torch.manual_seed(0)
    side = CLASSIFIERS.get(name) or DETECTORS[name]
    if name in DETECTORS:
        whole = getattr(detection, name)(weights=None, weights_backbone=None)
        module: nn.Module = Heads(whole)
    else:
        sizes = {"image_size": side} if name.startswith("vit") else {}
        if name in ("googlenet", "inception_v3"):
            sizes = {"init_weights": False, "aux_logits": False}
        module = torchvision.models.get_model(name, weights=None, **sizes)
    module = module.eval()
    images = pictures(TRAINING, side, PLAIN)
    as_if_trained(module, images)
    return module, images


def written(module: nn.Module, images: torch.Tensor, path: Path, exporter: str) -> None:
    """Write a module by one of PyTorch's exporters, with a dynamic batch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            batch = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(module, (images,), path, dynamic_shapes=batch, verbose=False)
        else:
            torch.backends.mha.set_fastpath_enabled(False)  # which it cannot write
            axes = {"images": {0: "batch"}}
            torch.onnx.export(
                module, (images,), path, dynamo=False, input_names=["images"], dynamic_axes=axes
            )


def described(float_model: FloatModel, images: torch.Tensor, int8: bool) -> Row:
    """Regions, layers, those on integers, and int8 kernels of a captured model."""
    placement = place(float_model, RECIPE, targets.hints())
    row: Row = {
        "regions": list(float_model.region_names),
        "layers": len(placement.layers),
        "integer": sum(layer.integer for layer in placement.layers),
        "quantized": len(placement.tensors),
    }
    if int8:
        quantized = subbyte.quantize(float_model.original, [images], RECIPE)
        row["int8"] = {name: int8_ops(quantized, images, name) for name in RUNTIMES}
    return row


def int8_ops(quantized: Simulation, images: torch.Tensor, name: str) -> int:
    """How many int8 kernels a runtime's own file has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        subbyte.export(quantized, path, images, target=name)
        return runtime(name).load(path, 1).int8_ops()


def leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors among outputs."""
    return [x for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)]


def off(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The largest difference, relative to the largest output."""
    return float((expected - found).abs().max() / expected.abs().max())


if __name__ == "__main__":
    main()
