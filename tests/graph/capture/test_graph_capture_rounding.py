from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import subbyte


class Weighed(nn.Module):
    """A linear layer whose result is multiplied by a function of the batch's length."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(6, 4), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.factor(x.shape[0])


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (lambda n: round(n * 0.7), r"\.py:\d+: round\(\) of a length of any size.*with //"),
        (math.sqrt, r"its code at .*\.py:\d+ fixes the batch size to 3"),
    ],
)
def test_functions_of_lengths_that_no_file_has_are_refused_at_capture(
    factor: Callable[[int], float], message: str
) -> None:
    with pytest.raises(subbyte.SubbyteError, match=message):
        subbyte.quantize(Weighed(factor), [torch.randn(3, 6)], subbyte.Recipe(method="range"))
