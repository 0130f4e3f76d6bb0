"""Models in float16, bfloat16 and float64, of which a copy in float32 is quantized."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.targets import onnxruntime

TYPES = [torch.float16, torch.bfloat16, torch.float64]
RANGE = subbyte.Recipe(method="range", **FITTING)
X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


class Two(nn.Module):
    """Two outputs, one of which is in float32 whatever the model is in, and a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.shift = torch.randn(5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.head(self.body(x).mean((2, 3))) + self.shift
        return y, y.float().softmax(1), y.argmax(1)


def in_type(kind: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = Two().to(kind).eval()
    model.shift = model.shift.to(kind)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_it_gives_what_the_model_gives_in_its_types(kind: torch.dtype, tmp_path: Path) -> None:
    model, x = in_type(kind), X.to(kind)
    before = copy.deepcopy(model.state_dict())
    quantized = subbyte.quantize(model, [x], RANGE)
    found, expected = quantized(x), model(x)
    assert [y.dtype for y in found] == [y.dtype for y in expected]
    exact = in_type(torch.float64)(x.double())
    assert float((found[0].double() - exact[0]).norm() / exact[0].norm()) < 0.03
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())

    path = tmp_path / "model.onnx"
    subbyte.export(quantized, path, x)  # a file takes and gives float32
    logits = onnxruntime.load(path, 1).run(x.float().numpy())[0]
    assert float((torch.from_numpy(logits).double() - exact[0]).norm() / exact[0].norm()) < 0.03

    subbyte.save(quantized, tmp_path / "model.safetensors")
    again = subbyte.load(model, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(found, again(x), strict=True))


def test_it_is_that_of_the_model_in_float32() -> None:
    half = in_type(torch.float16)
    single = copy.deepcopy(half).float()
    single.shift = single.shift.float()
    x = X.half()
    expected = subbyte.quantize(single, [x.float()])(x.float())[1]
    assert torch.equal(subbyte.quantize(half, [x])(x)[1], expected)


def test_a_model_that_gives_no_floats() -> None:
    class Labels(Two):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[2]

    model = Labels().double().eval()
    model.shift = model.shift.double()
    found = subbyte.quantize(model, [X.double()], RANGE)(X.double())
    assert found.dtype is torch.int64
    assert float((found == model(X.double())).double().mean()) > 0.7


@pytest.mark.slow
def test_a_region_of_a_model_in_half_precision() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3))

        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            maps = self.net(torch.stack(images))
            return [{"scores": y[y > y.mean()], "map": y} for y in maps]

    torch.manual_seed(0)
    model, images = Detector().half().eval(), list(X.half())
    quantized = subbyte.quantize(model, [images], RANGE)
    (one, *_) = quantized(images)
    assert {y.dtype for y in one.values()} == {torch.float16}
    expected = model(images)[0]["map"].float()
    assert float((one["map"].float() - expected).norm() / expected.norm()) < 0.05


def test_a_batch_of_another_type_is_refused() -> None:
    with pytest.raises(subbyte.SubbyteError, match="does not run on a batch"):
        subbyte.quantize(in_type(torch.float16), [X], RANGE)


def test_a_type_that_the_code_names_is_refused() -> None:
    class Names(Two):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return super().forward(x.half())

    model = Names().half().eval()
    model.shift = model.shift.half()
    with pytest.raises(subbyte.SubbyteError, match=r"holds float16.*take the type of a tensor"):
        subbyte.quantize(model, [X.half()], RANGE)
