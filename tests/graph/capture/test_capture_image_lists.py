"""A list of tensors of three dimensions: images [C, H, W], or levels [N, T, C] of one batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import subbyte
from subbyte.placement.simulation import Simulation
from subbyte.targets.base import runtime


class Levels(nn.Module):
    """Features [N, T, C] of several levels, in one list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleList([nn.Linear(8, 16) for _ in range(3)])
        self.head = nn.Linear(16, 5)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        parts = [f(x).relu().mean(1) for f, x in zip(self.inner, levels, strict=True)]
        return self.head(torch.stack(parts).sum(0))


class Grey(nn.Module):
    """Images of any number of channels and any size, in one list."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

    def forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        maps = [self.body(x.mean(0, keepdim=True).unsqueeze(0)) for x in images]
        return [x.mean((2, 3))[0] for x in maps]


def _levels(images: int) -> list[torch.Tensor]:
    return [torch.randn(images, steps, 8) for steps in (20, 10, 5)]


RANGE = subbyte.Recipe(method="range")


@pytest.fixture(scope="module", params=[4, 3, 1])
def quantized(request: pytest.FixtureRequest) -> Simulation:
    torch.manual_seed(request.param)
    levels = _levels(request.param)
    return subbyte.quantize(Levels().eval(), [levels, levels], RANGE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_levels_in_a_list_have_the_batch_first(
    quantized: Simulation, tmp_path: Path, name: str
) -> None:
    assert quantized.region_names == ("",)
    subbyte.export(quantized, tmp_path / "m.onnx", (_levels(2),), target=name)
    session = runtime(name).load(tmp_path / "m.onnx", 1)
    for images in (1, 2, 5):
        levels = _levels(images)
        (found,) = session.run(*(x.numpy() for x in levels))
        torch.testing.assert_close(torch.from_numpy(found), quantized(levels), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_levels_with_labels_are_learned_from() -> None:
    torch.manual_seed(0)
    model = Levels().eval()
    batches = [(levels, model(levels).argmax(-1)) for levels in (_levels(40), _levels(40))]
    quantized = subbyte.quantize(model, batches, subbyte.Recipe(method="lapq"))
    levels = _levels(20)
    expected, found = model(levels), quantized(levels)
    assert (expected - found).square().sum() < 1e-2 * expected.square().sum()


def test_a_saved_model_of_levels_is_loaded(quantized: Simulation, tmp_path: Path) -> None:
    subbyte.save(quantized, tmp_path / "m.safetensors")
    loaded, levels = subbyte.load(Levels().eval(), tmp_path / "m.safetensors"), _levels(7)
    torch.testing.assert_close(loaded(levels), quantized(levels), atol=0, rtol=0)


def test_images_of_any_number_of_channels_stay_images() -> None:
    torch.manual_seed(0)
    images = [torch.rand(3, 12, 10), torch.rand(3, 9, 11)]
    model = Grey().eval()
    quantized = subbyte.quantize(model, [images, images[:1]], RANGE)
    assert quantized.region_names == ("body",)
    for expected, found in zip(model(images), quantized(images), strict=True):
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_another_number_of_labels_than_of_levels_rows_is_refused() -> None:
    batch = (_levels(4), torch.zeros(3, dtype=torch.long))  # as many as there are levels
    with pytest.raises(subbyte.SubbyteError, match="4 images and 3 targets"):
        subbyte.quantize(Levels().eval(), [batch, batch], RANGE)
