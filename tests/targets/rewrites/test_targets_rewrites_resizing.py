from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rewrites_helpers import evaluated, kinds, model, normal
from targets_helpers import RUNTIMES, run
from torch import Tensor, nn
from torch.nn import functional as F

import subbyte
from subbyte.targets.onnx.rewrites.resizing import write_resizing

NEAREST = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'


def _resized(attributes: str, high: int, wide: int, **constants: Any) -> Any:
    given = 'x, "", "", sizes' if "sizes" in constants else 'x, "", scales'
    text = f"(float[N, 2, 20, 28] x) => (float[N, 2, {high}, {wide}] y) "
    before = model(f"{text} {{ y = Resize <{attributes}> ({given}) }}", **constants)
    after = before.clone()
    write_resizing(after)
    return after


@pytest.mark.parametrize(
    ("high", "wide", "expected"),
    [
        (12, 12, {"Gather": 2}),
        (12, 28, {"Gather": 1}),
        (40, 56, {"Resize": 1}),
        (10, 14, {"Resize": 1}),
        (33, 45, {"Resize": 1}),
    ],
)
def test_pixels_are_named_where_rounding_takes_others(
    high: int, wide: int, expected: dict[str, int]
) -> None:
    sizes = np.array([3, 2, high, wide])
    after = _resized(NEAREST, high, wide, sizes=sizes)
    assert kinds(after) == expected
    x = normal(3, 2, 20, 28)
    found = torch.from_numpy(evaluated(after, x)[0])
    assert torch.equal(found, F.interpolate(torch.from_numpy(x), (high, wide), mode="nearest"))


@pytest.mark.parametrize("corners", [False, True])
def test_bicubic_to_fewer_pixels_becomes_products(corners: bool) -> None:
    mode = "align_corners" if corners else "half_pixel"
    attributes = f'mode = "cubic", coordinate_transformation_mode = "{mode}"'
    after = _resized(attributes, 12, 35, sizes=np.array([3, 2, 12, 35]))
    assert kinds(after) == {"MatMul": 2}
    x = normal(3, 2, 20, 28)
    right = F.interpolate(torch.from_numpy(x), (12, 35), mode="bicubic", align_corners=corners)
    np.testing.assert_allclose(evaluated(after, x)[0], right.numpy(), atol=1e-5)


def test_bicubic_to_more_pixels_stays() -> None:
    after = _resized('mode = "cubic"', 40, 28, scales=np.array([1, 1, 2, 1], np.float32))
    assert kinds(after) == {"Resize": 1}


class Resizing(nn.Module):
    """Images, resized between two convolutions."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.interpolate(self.first(x).relu(), **self.how))


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, *RUNTIMES])
@pytest.mark.parametrize(
    "how",
    [
        {"size": (12, 12), "mode": "nearest"},
        {"scale_factor": 0.7, "mode": "nearest"},
        {"size": (12, 12), "mode": "bicubic"},
    ],
)
def test_both_runtimes_resize_as_pytorch_does(
    how: dict[str, Any], target: str | None, tmp_path: Path
) -> None:
    path, batch = tmp_path / "model.onnx", torch.from_numpy(normal(4, 3, 22, 30))
    net = Resizing(**how)
    recipe = subbyte.Recipe(method="range", ranges="minmax")
    subbyte.export(subbyte.quantize(net, [batch], recipe), path, batch, target=target)
    with torch.no_grad():
        expected = net(batch)
    for runtime in RUNTIMES if target is None else [target]:
        found = torch.from_numpy(run(runtime, path, batch)[0])
        error = (found - expected).square().sum() / expected.square().sum()
        assert error < 10**-3, runtime  # 30 dB; another pixel gives 9
