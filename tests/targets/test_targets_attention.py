"""Attention in both runtimes: what the simulation computes, its products on integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from targets_helpers import (
    RUNTIMES,
    WIDTH,
    SelfAttention,
    deploy,
    differences,
    normal,
    seeded,
    step,
)
from torch import Tensor, nn

pytestmark = pytest.mark.slow

TOKENS = 9
# By how much of one step of the integer sums a float may be off: any other integer is a whole one.
TINY = 0.05


class Joint(nn.Module):
    """Queries, keys and values by one linear layer, as most vision transformers have them."""

    def __init__(self, causal: bool = False, biased: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 5)
        self.bias = nn.Parameter(torch.randn(2, TOKENS, TOKENS)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).reshape(x.shape[0], TOKENS, 3, 2, WIDTH // 2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v, self.bias, is_causal=self.causal)
        return self.last((x + self.proj(found.transpose(1, 2).flatten(2))).mean(1))


@pytest.mark.parametrize(
    ("make", "bits"),
    [
        (Joint, 8),
        (Joint, 4),
        (lambda: Joint(causal=True), 8),
        (lambda: Joint(biased=True), 8),
        (SelfAttention, 8),
        (SelfAttention, 4),
    ],
    ids=["joint-8", "joint-4", "causal-8", "biased-8", "torchs-8", "torchs-4"],
)
def test_attention_is_the_simulation_to_the_last_integer(
    make: type[nn.Module], bits: int, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    fields = {"weights": bits, "activations": bits, "ranges": "minmax", "method": "range"}
    quantized = deploy(seeded(make), normal(8, TOKENS, WIDTH), path, **fields)
    products = [layer for layer in quantized.placement.layers if layer.operation == "matmul"]
    assert [layer.integer for layer in products] == [True, True]
    # Three times what it was calibrated on as well, so that both ends of all ranges are met.
    batch = torch.cat([normal(3, TOKENS, WIDTH, seed=2), 3 * normal(3, TOKENS, WIDTH, seed=3)])
    for runtime in RUNTIMES:
        (off,) = differences(runtime, path, quantized, batch)
        assert off < TINY * step(quantized, "last")


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "position bias"])
def test_both_products_have_int8_kernels_in_both_runtimes(biased: bool, tmp_path: Path) -> None:
    found = {}
    for name, overrides in {"all": {}, "none": {r"matmul.*": {"activations": None}}}.items():
        path = tmp_path / f"{name}.onnx"
        recipe = {"ranges": "minmax", "method": "range", "overrides": overrides}
        deploy(seeded(lambda: Joint(biased=biased)), normal(8, TOKENS, WIDTH), path, **recipe)
        found[name] = {key: runtime.load(path, 1).int8_ops() for key, runtime in RUNTIMES.items()}
    assert found["none"] == {"onnxruntime": 3, "openvino": 3}
    # The one of queries, keys and values is written as three.
    assert found["all"] == {"onnxruntime": 7, "openvino": 7}
