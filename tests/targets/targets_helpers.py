"""Small networks with random weights, the digits as tensors, and a run in either runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.data.digits import digits_split
from subbyte.models.digits import PREPROCESSING
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import onnxruntime, openvino

RUNTIMES = {"onnxruntime": onnxruntime, "openvino": openvino}
WIDTH = 16  # of a token


class SelfAttention(nn.Module):
    """PyTorch's own, as torchvision's ViT has it: a linear layer reads it past a transposition."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.last = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.last((x + self.attention(y, y, y, need_weights=False)[0]).mean(1))


class OneConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TwoConvs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


class Residual(nn.Module):
    """A convolution that goes straight into an addition, whose sum is read by another."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.left(x) + self.right(x)))


class Pooled(nn.Module):
    """A convolution, global average pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.relu(self.conv(x)).mean((2, 3)))


class SideBySide(nn.Module):
    """The four networks above in one, so that one file checks them all."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.residual, self.pooled = OneConv(), TwoConvs(), Residual(), Pooled()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.one(x), self.two(x), self.residual(x), self.pooled(x)


class Wide(nn.Module):
    """Two linear layers, wide enough for a runtime's kernels for large matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The module that `make` builds, with the same random weights on every call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def normal(*shape: int, seed: int = 1) -> Tensor:
    """Normally distributed values, the same on every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def images(count: int = 3, seed: int = 1) -> Tensor:
    return normal(count, 3, 6, 6, seed=seed)


def digit_images(count: int, *, evaluation: bool = False) -> tuple[Tensor, Tensor]:
    """So many of the bundled digits as the model takes them, and their labels."""
    train, train_labels, held_out, labels = digits_split()
    pixels = torch.from_numpy(held_out if evaluation else train)[:count, None].float() / 255
    prepared = (pixels - PREPROCESSING.mean[0]) / PREPROCESSING.std[0]
    return prepared, torch.from_numpy(labels if evaluation else train_labels)[:count]


def deploy(model: nn.Module, batch: Tensor, path: Path, **recipe: object) -> Simulation:
    """Quantize `model` on `batch`, so that sums fit, and write it to `path`."""
    quantized = subbyte.quantize(model, [batch], subbyte.Recipe(**FITTING | recipe))
    subbyte.export(quantized, path, batch[:2])
    return quantized


def run(runtime: str, path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """The outputs of a file for one batch."""
    outputs: list[np.ndarray] = RUNTIMES[runtime].load(path, 1).run(*[x.numpy() for x in inputs])
    return outputs


def differences(runtime: str, path: Path, quantized: Simulation, *inputs: Tensor) -> list[float]:
    """The largest difference between the file and the simulation, for each output."""
    simulated = quantized(*inputs)
    simulated = [simulated] if isinstance(simulated, Tensor) else simulated
    deployed = run(runtime, path, *inputs)
    assert [y.shape for y in deployed] == [tuple(y.shape) for y in simulated]
    return [float(np.abs(a - b.numpy()).max()) for a, b in zip(deployed, simulated, strict=True)]


def placed_for(quantized: Simulation, target: str | None) -> Simulation:
    """The simulation of what a file for `target` computes; `None`: the one for all."""
    placement = quantized.placement.for_target(target)
    return simulate(quantized.float_model, placement, quantized.params)


def step(quantized: Simulation, layer: str) -> float:
    """The smallest step of the integer sums of a layer: scale of its input · scale of a weight."""
    rows = {row["role"]: row["scale"] for row in subbyte.layers(quantized) if row["layer"] == layer}
    return rows["activation"] * float(np.min(rows["weight"]))


def operators(path: Path) -> Counter[str]:
    """How often each operator occurs in a file."""
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def packed_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """What the packed weights of a file are, by ONNX's reference implementation."""
    held = {constant.name for constant in model.graph.initializer}
    known, read = set(held), set()
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            read.add(node.input[0])
        elif known.issuperset(node.input):
            known.update(node.output)
    names = sorted(read & known - held)
    inferred = onnx.shape_inference.infer_shapes(model)
    part = onnx.utils.Extractor(inferred).extract_model([], names)
    return dict(zip(names, ReferenceEvaluator(part).run(None, {}), strict=True))


def listed(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    """The outputs of a network that gives one or several."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
