"""Detectors nobody here wrote, unedited: simulation, on integers, the same in float."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from placed import placed
from subbyte.recipe import Recipe

FLOAT = "its weight is computed while the model runs"  # of a distribution over distances


def built(name: str, size: str) -> torch.nn.Module:
    """A detector of libreyolo's with random weights."""
    libreyolo = pytest.importorskip("libreyolo")
    torch.manual_seed(0)
    # As for training from scratch: no weights are looked for.
    model: Any = getattr(libreyolo, name)(None, size=size, device="cpu", _scratch_init=True).model
    return model.float().eval()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "size", "side", "in_float"),
    [
        ("LibreYOLOX", "n", 416, {}),
        ("LibreYOLO9", "t", 320, {}),
        ("LibreRTDETR", "r18", 640, {}),
        ("LibreDFINE", "n", 640, {"decoder.integral": FLOAT}),
    ],
)
def test_libreyolos_detectors_are_captured_unedited(
    name: str, size: str, side: int, in_float: dict[str, str]
) -> None:
    # In float64, where scores that are nearly equal keep their order.
    model, x = built(name, size).double(), torch.rand(2, 3, side, side, dtype=torch.float64)
    simulation = placed(model, (x,), Recipe())
    reasons = {
        layer.name: layer.reason for layer in simulation.placement.layers if not layer.integer
    }
    assert {key: reason for key, reason in reasons.items() if reason} == in_float
    assert len(simulation.placement.layers) - len(reasons) >= 100
    with torch.no_grad():
        expected, found = (pytree.tree_leaves(run(x)) for run in (model, simulation))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
