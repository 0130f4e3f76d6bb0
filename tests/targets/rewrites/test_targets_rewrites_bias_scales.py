from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rewrites_helpers import kinds, model, rewritten

from subbyte.targets.onnx.rewrites.bias_scales import multiply_bias_scales

X_SCALE = np.float32(0.013)
W_SCALE = np.linspace(0.01, 0.07, 16, dtype=np.float32)


def convolution(of_bias: np.ndarray, layer: str = "Conv", channels: int = 16) -> ir.Model:
    rng = np.random.default_rng(0)
    text = (
        "(float[N, 3, 5, 5] x) => (float y) { q = QuantizeLinear(x, sx, zx) "
        "a = DequantizeLinear(q, sx, zx) w = DequantizeLinear <axis = 0> (wq, sw) "
        f"b = DequantizeLinear <axis = 0> (bq, sb) y = {layer}(a, w, b) }}"
    )
    return model(
        text,
        sx=X_SCALE,
        zx=np.uint8(3),
        wq=rng.integers(-127, 128, (channels, 3, 3, 3)).astype(np.int8),
        sw=W_SCALE[:channels],
        bq=rng.integers(-9000, 9000, channels).astype(np.int32),
        sb=of_bias,
    )


def test_a_scale_that_is_the_product_is_computed() -> None:
    after = rewritten(convolution(X_SCALE * W_SCALE), multiply_bias_scales, tolerance=0.0)
    assert kinds(after)["Mul"] == 1
    assert "sb" not in after.graph.initializers


@pytest.mark.parametrize(
    ("scale", "channels"),
    [
        (np.nextafter(X_SCALE * W_SCALE, np.float32(1)), 16),  # another one by a bit
        (X_SCALE * W_SCALE[:8], 8),  # where the product would take more bytes than it saves
    ],
)
def test_any_other_scale_stays(scale: np.ndarray, channels: int) -> None:
    after = rewritten(convolution(scale, channels=channels), multiply_bias_scales)
    assert not kinds(after)["Mul"]
    assert "sb" in after.graph.initializers
