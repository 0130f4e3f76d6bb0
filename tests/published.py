"""Published detectors as modules: the few operators of two ONNX files, with a dynamic batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F


class OnnxNetwork(nn.Module):
    """A file's network; its convolutions are submodules called as the file's nodes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        graph = onnx.load(str(path)).graph
        self.constants = {x.name: numpy_helper.to_array(x).copy() for x in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t).copy()
        self.input = next(x.name for x in graph.input if x.name not in self.constants)
        self.outputs = [x.name for x in graph.output]
        self.steps: list[tuple[str, Any, list[str], list[str], dict[str, Any]]] = []
        for i, node in enumerate(node for node in graph.node if node.op_type != "Constant"):
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            kind, key = node.op_type, None
            if kind == "Conv":
                key = f"conv{i}"
                self.add_module(key, self._convolution(node.input, attributes))
            self.steps.append((kind, key, list(node.input), list(node.output), attributes))

    def _convolution(self, names: Any, attributes: dict[str, Any]) -> nn.Conv2d:
        weight = torch.from_numpy(self.constants[names[1]])
        groups, pads = attributes.get("group", 1), attributes["pads"]
        assert pads[:2] == pads[2:]
        convolution = nn.Conv2d(
            weight.shape[1] * groups, weight.shape[0], weight.shape[2:], attributes["strides"],
            pads[:2], attributes.get("dilations", 1), groups, bias=len(names) > 2,
        )  # fmt: skip
        convolution.weight.data = weight
        if len(names) > 2:
            convolution.bias.data = torch.from_numpy(self.constants[names[2]])
        return convolution

    def forward(self, x: torch.Tensor) -> Any:
        values = {self.input: x}
        for kind, key, names, outputs, attributes in self.steps:
            if key is not None:
                values[outputs[0]] = self.get_submodule(key)(values[names[0]])
                continue
            tensors = [values[name] for name in names if name in values]
            numbers = [self.constants[name].tolist() for name in names if name in self.constants]
            found = _run(kind, tensors, numbers, attributes)
            several = found if isinstance(found, tuple) else (found,)
            values.update(zip(outputs, several, strict=True))
        found = [values[name] for name in self.outputs]
        return found[0] if len(found) == 1 else tuple(found)


def _run(kind: str, tensors: list[Any], numbers: list[Any], attributes: dict[str, Any]) -> Any:
    first = tensors[0]
    match kind:
        case "Sigmoid":
            return first.sigmoid()
        case "LeakyRelu":
            return F.leaky_relu(first, attributes["alpha"])
        case "Mul":
            return first * tensors[1]
        case "Add":
            return first + tensors[1]
        case "Concat":
            return torch.cat(tensors, attributes["axis"])
        case "Transpose":
            return first.permute(attributes["perm"])
        case "Reshape":
            shape = [first.shape[i] if n == 0 else n for i, n in enumerate(numbers[0])]
            return first.reshape(-1, *_known(first, shape[1:]))
        case "Split":
            sizes = attributes["split"] if "split" in attributes else numbers[0]
            return torch.split(first, sizes, attributes["axis"])
        case "MaxPool":
            pads = attributes["pads"]
            return F.max_pool2d(first, attributes["kernel_shape"], attributes["strides"], pads[:2])
        case "Slice":
            starts, ends, axes, steps = numbers
            for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
                places = [slice(None)] * first.dim()
                places[axis] = slice(start, min(end, first.shape[axis]), step)
                first = first[tuple(places)]
            return first
        case "Resize":
            sizes = numbers[-1]
            bilinear = attributes["mode"] == b"linear"
            if isinstance(sizes[0], float):
                sizes = [
                    int(n * scale) for n, scale in zip((1, 1, *first.shape[2:]), sizes, strict=True)
                ]
            assert attributes["coordinate_transformation_mode"] in (
                b"asymmetric", b"pytorch_half_pixel", b"half_pixel",
            )  # fmt: skip
            if bilinear:
                return F.interpolate(first, sizes[2:], mode="bilinear", align_corners=False)
            return F.interpolate(first, sizes[2:], mode="nearest")
        case _:
            raise NotImplementedError(kind)


def _known(first: torch.Tensor, shape: list[int]) -> list[int]:
    """A shape behind the batch in which -1 is a number."""
    if -1 not in shape:
        return shape
    rest = 1
    for n in first.shape[1:]:
        rest *= n
    for n in shape:
        rest = rest // n if n != -1 else rest
    return [rest if n == -1 else n for n in shape]
