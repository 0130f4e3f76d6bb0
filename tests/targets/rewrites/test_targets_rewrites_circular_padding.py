from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rewrites_helpers import kinds, model, rewritten
from targets_helpers import RUNTIMES, differences, normal, operators, seeded
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.targets.onnx.rewrites.circular_padding import slice_circular_padding


class Circular(nn.Module):
    """Convolutions in one and two dimensions on a torus."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = nn.Conv2d(3, 4, (3, 5), padding=(1, 2), padding_mode="circular")
        self.line = nn.Conv1d(4, 5, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.plane(x).relu().flatten(2))


@pytest.mark.parametrize(
    ("pads", "expected"),
    [
        ([0, 0, 1, 2, 0, 0, 1, 2], {"Slice": 4, "Concat": 2}),
        ([0, 0, 0, 0, 0, 0, 0, 3], {"Slice": 1, "Concat": 1}),
        ([0, 0, 2, 0, 0, 0, 0, 0], {"Slice": 1, "Concat": 1}),
    ],
)
def test_it_is_what_onnx_computes(pads: list[int], expected: dict[str, int]) -> None:
    high, wide = 4 + pads[2] + pads[6], 5 + pads[3] + pads[7]
    text = f"(float[N, 3, 4, 5] x) => (float[N, 3, {high}, {wide}] y) "
    before = model(f'{text} {{ y = Pad <mode = "wrap"> (x, pads) }}', pads=np.array(pads))
    assert kinds(rewritten(before, slice_circular_padding)) == expected


def test_axes_may_be_named() -> None:
    text = "(float[N, 3, 4, 5] x) => (float[N, 3, 4, 8] y) "
    nodes = 'y = Pad <mode = "wrap"> (x, pads, "", axes)'
    before = model(f"{text} {{ {nodes} }}", pads=np.array([1, 2]), axes=np.array([3]))
    assert kinds(rewritten(before, slice_circular_padding)) == {"Slice": 2, "Concat": 1}


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_other_padding_stays(mode: str) -> None:
    text = "(float[N, 3, 4, 5] x) => (float[N, 3, 6, 5] y) "
    pads = np.array([0, 0, 1, 0, 0, 0, 1, 0])
    before = model(f'{text} {{ y = Pad <mode = "{mode}"> (x, pads) }}', pads=pads)
    assert kinds(rewritten(before, slice_circular_padding)) == {"Pad": 1}


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, *RUNTIMES])
def test_both_runtimes_run_it(target: str | None, tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", normal(3, 3, 6, 6)
    recipe = subbyte.Recipe(method="range", **FITTING)
    quantized = subbyte.quantize(seeded(Circular), [batch], recipe)
    subbyte.export(quantized, path, batch, target=target)
    assert "Pad" not in operators(path)
    for runtime in RUNTIMES if target is None else [target]:
        for size in (1, 5):
            other = normal(size, 3, 6, 6, seed=size)
            assert differences(runtime, path, quantized, other)[0] < 1e-5, runtime
