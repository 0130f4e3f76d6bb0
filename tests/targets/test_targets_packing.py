"""Packed weights in both runtimes: what plain int8 weights give, with as many int8 kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from targets_helpers import RUNTIMES, normal, operators, seeded
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.app.report.entry import packed_bytes
from subbyte.placement.simulation import Simulation
from subbyte.targets import base
from subbyte.targets.onnx.files import save
from subbyte.targets.onnx.program import Program, program_of
from subbyte.targets.onnx.rewrites.packing import pack
from subbyte.targets.onnx.sizes import whole_bytes

pytestmark = pytest.mark.slow  # one export, read in three forms by both runtimes

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
WIDTH = 64
TARGETS = (None, "onnxruntime", "openvino")


class EveryKind(nn.Module):
    """Convolutions of every kind, linear layers of tokens and of rows, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.grouped = nn.Conv2d(WIDTH, WIDTH, 3, groups=4, padding=1)
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH, padding=1)
        self.transposed = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2)
        self.down = nn.Conv2d(WIDTH, WIDTH, 2, stride=2)
        self.line = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.wide, self.odd = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, 51)
        self.last = nn.Linear(51, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.full(x))))
        x = F.relu(self.depthwise(F.relu(self.grouped(x))))
        x = F.relu(self.down(F.relu(self.transposed(x))))
        x = F.relu(self.line(x.flatten(2))).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.last(F.relu(self.odd(F.relu(self.wide(x.mean(1))))))


OVERRIDES = {
    **{name: {"weights": 2} for name in ("full", "second")},
    **{name: {"weights": 3} for name in ("grouped", "wide")},
    **{name: {"weights": 4} for name in ("depthwise", "attention.*")},
    "transposed": {"weights": 5},
    "down": {"weights": 6},
    **{name: {"weights": 7} for name in ("line", "odd")},
}
RECIPES: dict[str, dict[str, Any]] = {
    "mixed": {"weights": 3, "overrides": OVERRIDES},
    "mixed-symmetric": {"weights": 3, "overrides": OVERRIDES, "symmetric_weights": True},
    "one-scale": {"weights": 5, "per_channel": False},
    "one-scale-asymmetric": {"weights": 3, "per_channel": False, "symmetric_weights": False},
}


@dataclass(frozen=True)
class Exported:
    """A quantized network and its export."""

    quantized: Simulation
    program: Program

    def write(self, path: Path, target: str | None, *, packing: bool = True) -> Path:
        """A target's form of it."""
        rewrites = [r for r in base.rewrites(target) if packing or r is not pack]
        save(self.program.form(rewrites), path, {})
        return path


@pytest.fixture(scope="module", params=RECIPES)
def exported(request: pytest.FixtureRequest) -> Exported:
    recipe = {"activations": 8, "first_last": None, "method": "range", **RECIPES[request.param]}
    x = normal(4, 3, 6, 6)
    quantized = subbyte.quantize(seeded(EveryKind), [x], subbyte.Recipe(**FITTING | recipe))
    return Exported(quantized, program_of(quantized, (x,), postprocess=True))


@pytest.mark.parametrize("target", TARGETS)
def test_runtimes_give_what_they_give_with_int8_weights(
    target: str | None, exported: Exported, tmp_path: Path
) -> None:
    plain = exported.write(tmp_path / "plain.onnx", target, packing=False)
    packed = exported.write(tmp_path / "packed.onnx", target)
    assert operators(packed)["Gather"] > operators(plain)["Gather"]
    x = normal(5, 3, 6, 6, seed=2).numpy()
    for runtime in RUNTIMES.values():
        first, second = (runtime.load(path, 1) for path in (plain, packed))
        assert second.int8_ops() == first.int8_ops() > 0
        for a, b in zip(first.run(x), second.run(x), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_file_is_as_small_as_its_bits_say(exported: Exported, tmp_path: Path) -> None:
    plain = exported.write(tmp_path / "plain.onnx", None, packing=False)
    packed = exported.write(tmp_path / "packed.onnx", None)
    quantized = exported.quantized
    weights = [(quantized.weight(tensor), tensor.spec.bits) for tensor, _ in quantized.weights()]
    saved = sum(weight.numel() * (8 - bits) / 8 for weight, bits in weights)
    promised = plain.stat().st_size - saved
    size = packed.stat().st_size
    assert promised < size < 1.05 * promised + 10_000
    assert abs(packed_bytes(packed, quantized) - promised) < 2000
    assert whole_bytes(plain) == plain.stat().st_size


def test_reference_unpacks_the_integers_as_the_documentation_says(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = onnx.load(str(exported.write(tmp_path / "plain.onnx", None, packing=False)))
    expected = {v.name: numpy_helper.to_array(v) for v in plain.graph.initializer}
    exported.write(tmp_path / "model.onnx", None)
    page = DEPLOYMENT.read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Extractor" in c)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)  # what it prints is captured
    assert len(found["names"]) > 5
    values = ReferenceEvaluator(found["weights"]).run(None, {})
    for name, integers in zip(found["names"], values, strict=True):
        assert integers.dtype == np.int8
        np.testing.assert_array_equal(integers, expected[name])
