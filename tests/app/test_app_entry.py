from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from subbyte.api import capture, quantize_captured
from subbyte.app.report.entry import packed_bytes, variant_entry, warnings_of
from subbyte.data.batches import ArgumentsOf
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe


def block(name: str, why: str = "") -> dict[str, Any]:
    return {"block": name, "seconds": 1.0, "fell_back": bool(why), **({"why": why} if why else {})}


def test_layers_that_a_method_leaves_rounded_are_named_with_the_reason() -> None:
    nothing = "nothing better than rounding was found"
    blocks = [block("0"), block("2", nothing), block("3", "it never ran"), block("4", nothing)]
    assert warnings_of({"blocks": blocks}) == [
        f"not learned, because {nothing}: 2, 4; not learned, because it never ran: 3"
    ]
    assert warnings_of({"blocks": blocks[:1], "tuning": None}) == []


def test_a_tuning_that_is_not_kept_is_reported_with_the_reason() -> None:
    assert warnings_of({"tuning": {"kept": False, "why": "the loss had grown"}}) == [
        "not tuned, because the loss had grown"
    ]
    assert warnings_of({"tuning": {"kept": True}}) == []
    assert warnings_of({"output_correction": {"kept": True}}) == []
    assert "not corrected" in warnings_of({"output_correction": {"kept": False}})[0]
    assert warnings_of({}) == []


def quantized(bits: int | None) -> Simulation:
    """Layers of 30 and 60 weights."""
    network = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 10)).eval()
    images = torch.randn(4, 5)
    batches = ArgumentsOf([images], torch.device("cpu"))
    recipe = Recipe(weights=bits, activations=8, first_last=None, method="range")
    return quantize_captured(capture(network, (images,)), batches, recipe)


@pytest.mark.parametrize(
    ("bits", "saved"),
    [(None, 0), (8, 0), (6, 90 * 2 / 8), (5, 90 * 3 / 8), (4, 0), (3, 90 / 8), (2, 90 * 2 / 8)],
)
def test_packed_weights_take_as_many_bits_as_they_have(bits: int | None, saved: float) -> None:
    assert packed_bytes(1000, quantized(bits)) == round(1000 - saved)


def test_an_entry_says_what_was_asked_for_and_what_ran() -> None:
    recipe = Recipe(weights=4, activations=8, first_last=None, method="range", ranges="minmax")
    entry = variant_entry("w4a8", recipe, quantized(4), {"images": 7}, 1000)
    assert entry["seconds"] >= 0
    asked = {"name": "w4a8", "weights": 4, "activations": 8, "ranges": recipe.ranges}
    found = {"method": "range", "images": 7, "size_bytes": 1000, "packed_bytes": 1000}
    reported = {"blocks": [], "tuning": None, "output_correction": None}
    assert {k: v for k, v in entry.items() if k != "seconds"} == {**asked, **found, **reported}
