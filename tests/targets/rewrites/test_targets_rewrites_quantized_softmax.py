from __future__ import annotations

import numpy as np
import pytest
from rewrites_helpers import kinds, model, rewritten

from subbyte.targets.onnx.rewrites.quantized_softmax import keep_softmax

QDQ = "q{0} = QuantizeLinear({0}, s, z) d{0} = DequantizeLinear(q{0}, s, z) "


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"{QDQ.format('x')} a = Softmax(dx) {QDQ.format('a')} y = Relu(da)", 1),
        (f"{QDQ.format('x')} y = Softmax(dx)", 0),
        (f"a = Softmax(x) {QDQ.format('a')} y = Relu(da)", 0),
    ],
)
def test_a_softmax_between_quantized_values_has_a_barrier(body: str, expected: int) -> None:
    text = f"(float[N, 4] x) => (float[N, 4] y) {{ {body} }}"
    before = model(text, s=np.float32(0.01), z=np.uint8(3))
    assert kinds(rewritten(before, keep_softmax))["LeakyRelu"] == expected
