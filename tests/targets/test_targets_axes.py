"""What the axes of a file are called whose lengths vary."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from targets_helpers import RUNTIMES, images, normal, run, seeded
from torch import Tensor, nn

import subbyte
from subbyte.targets.onnx.axes import name_axes


class ImageAndWords(nn.Module):
    """Reads an image and some words of it, and gives the words as rows too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

    def forward(self, image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(image), self.fc(words).reshape(-1, 4)


def axes(values) -> dict[str, list[str | int]]:
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, *RUNTIMES])
def test_the_batch_of_all_inputs(target: str | None, tmp_path: Path) -> None:
    batch, path = (images(3), normal(3, 6, 5)), tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(ImageAndWords), [batch], subbyte.Recipe(method="range"))
    subbyte.export(quantized, path, batch, target=target)
    graph = onnx.load(str(path)).graph
    assert list(axes(graph.input).values()) == [["batch", 3, 6, 6], ["batch", 6, 5]]
    assert list(axes(graph.output).values()) == [["batch", 4, 4, 4], ["6*batch", 4]]
    for runtime in RUNTIMES if target is None else (target,):
        found = run(runtime, path, *(torch.cat([x, x]) for x in batch))
        assert [len(y) for y in found] == [6, 36]


def test_other_lengths_are_called_by_what_they_are() -> None:
    def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = [value("image", "s0", 3, "s1", "s2"), value("words", "s0", "s12", 5)]
    outputs = [value("map", "s0", 4, "s1 - 2", "s2//2"), value("found", "u0", 4)]
    graph = onnx.helper.make_graph([], "graph", inputs, outputs)
    name_axes(graph)
    assert axes([*graph.input, *graph.output]) == {
        "image": ["batch", 3, "height", "width"],
        "words": ["batch", "length", 5],
        "map": ["batch", 4, "height - 2", "width//2"],
        "found": ["found_axis_0", 4],
    }
