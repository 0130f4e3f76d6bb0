from __future__ import annotations

import torch
from torch import nn

from subbyte import Recipe, quantize


def test_holding_weights_changes_no_output_and_ends_with_the_block() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    images = torch.randn(4, 3, 6, 6)
    captured = quantize(model, [images], Recipe(weights=3, first_last=None, method="range"))
    with torch.no_grad():
        expected = captured(images)
        with captured.holding_weights():
            assert torch.equal(captured(images), expected)
            (_, first), *_ = captured.quantizers("weight")
            assert first.instead is not None
        assert all(quantizer.instead is None for _, quantizer in captured.quantizers())
        assert torch.equal(captured(images), expected)
