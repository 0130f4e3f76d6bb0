from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from targets_helpers import RUNTIMES, Pooled, differences, images, placed_for, seeded
from torch import Tensor, nn

import subbyte
from processor import FITTING

pytestmark = pytest.mark.slow


class TwoInputs(nn.Module):
    """Both inputs are read, and both outputs are new."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x) + self.right(y), self.right(x)


class Token(nn.Module):
    """What is learned is repeated for each image, by the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 4))
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.last = nn.Linear(12, 5)
        nn.init.normal_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.second(self.first(x).relu()).relu().mean((2, 3))
        token = self.token.expand(x.shape[0], -1)
        return self.last(torch.cat([token, pooled], 1))


@pytest.mark.parametrize("target", [None, *RUNTIMES])
def test_a_model_may_ask_for_the_size_of_the_batch(target: str | None, tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", images(5)
    quantized = subbyte.quantize(seeded(Token), [batch], subbyte.Recipe(**FITTING))
    subbyte.export(quantized, path, batch[:2], target=target)
    simulation = placed_for(quantized, target)
    for runtime in RUNTIMES if target is None else [target]:
        assert differences(runtime, path, simulation, batch)[0] < 5e-6, runtime


@pytest.mark.parametrize("example", [1, 2])
def test_any_batch_size_runs_whatever_the_examples(example: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantized = subbyte.quantize(seeded(Pooled), [images(5)], subbyte.Recipe(**FITTING))
    subbyte.export(quantized, path, images(example))
    for runtime in RUNTIMES.values():
        session = runtime.load(path, 1)
        for size in (1, 3, 17):
            batch = images(size, seed=size)
            (deployed,) = session.run(batch.numpy())
            np.testing.assert_allclose(deployed, quantized(batch), rtol=0, atol=1e-6)


def test_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    path, one, other = tmp_path / "model.onnx", images(3, seed=2), 2 * images(3, seed=3)
    quantized = subbyte.quantize(seeded(TwoInputs), [(one, other)], subbyte.Recipe(**FITTING))
    subbyte.export(quantized, path, (one[:1], other[:1]))
    assert [value.name for value in onnx.load(str(path)).graph.input] == ["input_0", "input_1"]
    for runtime in RUNTIMES:
        assert max(differences(runtime, path, quantized, one, other)) < 5e-6
        assert max(differences(runtime, path, quantized, other, one)) < 5e-6


def test_one_input_and_one_output_have_plain_names(digits) -> None:
    _, path = digits(weights=8, activations=8, first_last=None)
    graph = onnx.load(str(path)).graph
    assert [value.name for value in graph.input] == ["input"]
    assert [value.name for value in graph.output] == ["output"]
    sizes = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    assert all(size.dim_param and not size.dim_value for size in sizes)
