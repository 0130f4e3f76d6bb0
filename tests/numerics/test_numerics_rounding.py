from __future__ import annotations

import pytest
import torch

from subbyte.numerics.qspec import QSpec
from subbyte.numerics.rounding import VALUES_AT_ONCE, fake_quantize, row_errors


@pytest.mark.parametrize("seed", range(14))
def test_every_bit_is_that_of_torchs_kernels(seed: int) -> None:
    spec = QSpec(2 + seed % 7, symmetric=seed >= 7)
    x = torch.randn(6, 500) * 10.0 ** (seed % 5 - 2)
    scale = (torch.rand(6) + 0.1) * x.abs().max() / 2**spec.bits
    zero_point = torch.zeros(6, dtype=torch.int32)
    if not spec.symmetric:
        zero_point = torch.randint(0, spec.high + 1, (6,)).to(torch.int32)
    x[:, :64] = (torch.arange(64) - 32.5) * scale[:, None]  # ties
    before = x.clone()
    expected = torch.fake_quantize_per_channel_affine(x, scale, zero_point, 0, spec.low, spec.high)
    found = fake_quantize(x, scale[:, None], zero_point[:, None], spec)
    assert torch.equal(found, expected)
    assert torch.equal(x, before)
    one = torch.fake_quantize_per_tensor_affine(x, scale[0], zero_point[0], spec.low, spec.high)
    assert torch.equal(fake_quantize(x, scale[0], zero_point[0], spec), one)


@pytest.mark.parametrize("shape", [(5, 7), (3, VALUES_AT_ONCE // 2), (1, VALUES_AT_ONCE + 3)])
@pytest.mark.parametrize("p", [2, 2.4, 3])
def test_errors_of_rows_in_float64(shape: tuple[int, int], p: float) -> None:
    spec, rows = QSpec(4, False), shape[0]
    values, factors = torch.randn(shape), torch.rand(shape)
    scale, zero_point = torch.rand(rows) * 0.2 + 0.1, torch.full((rows,), 7, dtype=torch.int32)
    x, s = values.double(), scale.double()[:, None]
    integers = ((x / s).round() + 7).clamp(0, 15) - 7
    errors = (integers * s - x).abs() ** p
    found = row_errors(values, scale, zero_point, spec, p)
    torch.testing.assert_close(found.double(), errors.sum(1), rtol=1e-4, atol=1e-6)
    weighed = row_errors(values, scale, zero_point, spec, p, factors)
    torch.testing.assert_close(weighed.double(), (errors * factors).sum(1), rtol=1e-4, atol=1e-6)
