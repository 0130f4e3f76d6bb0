from __future__ import annotations

import pytest
import torch
from torch import nn

import subbyte
from subbyte.calibration.output_correction import Correction, Expected, Judging
from subbyte.methods.common.judged import with_correction

IMAGES, ROWS = 16, 6


@pytest.mark.parametrize(("off", "kept"), [(0.5, False), (0.0, True)])
def test_a_column_that_loses_is_not_made_up_for_by_another(off: float, kept: bool) -> None:
    """Before, column 0 is wrong by 1 and column 1 by 0.1; after, column 1 alone by `off`."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2).eval()
    x = torch.randn(IMAGES, ROWS, 4)
    simulation = subbyte.quantize(model, [x], subbyte.Recipe(method="range"))
    with torch.no_grad():
        right = model(x)
        bias = model.bias.detach() + torch.tensor([0.0, off])
    expected = Expected({}, {}, Judging([(x,)], [right], 0))
    before = Judging([(x,)], [right + torch.tensor([1.0, 0.1])], 0)
    correction = Correction({"bias": bias}, {"bias": bias}, 0, expected, before)
    params = with_correction(simulation, correction)
    assert params.reported["output_correction"]["kept"] is kept
    assert ("bias" in params.biases) is kept
    losses = params.reported["output_correction"]
    assert losses["loss"] < losses["loss_before"]


def test_images_that_all_judge_are_not_excused_by_chance() -> None:
    """Without images apart, logits that are wrong by twice as much are no chance."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).eval()
    x = torch.randn(IMAGES, 4)
    simulation = subbyte.quantize(model, [x], subbyte.Recipe(method="range"))
    with torch.no_grad():
        right, off = model(x), torch.tensor([0.2, 0.0, 0.0])
        bias = model.bias.detach() + 1.4 * off
    before = Judging([(x,)], [right + off], 0)
    expected = Expected({}, {}, Judging([(x,)], [right], 0))
    correction = Correction({"bias": bias}, {"bias": bias}, 0, expected, before)
    losses = with_correction(simulation, correction).reported["output_correction"]
    assert 1.5 < losses["loss"] / losses["loss_before"] < 3
    assert losses["kept"] is False
