from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from subbyte.api import capture, export, quantize_captured
from subbyte.app.report.entry import packed_bytes, variant_entry, warnings_of
from subbyte.data.batches import ArgumentsOf
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe


def block(name: str, why: str = "") -> dict[str, Any]:
    return {"block": name, "seconds": 1.0, "fell_back": bool(why), **({"why": why} if why else {})}


def test_layers_that_a_method_leaves_rounded_are_named_with_the_reason() -> None:
    nothing = "nothing better than rounding was found"
    blocks = [block("0"), block("2", nothing), block("3", "it never ran"), block("4", nothing)]
    (sentence,) = warnings_of({"blocks": blocks})
    expected = f"plain rounding was kept at 2, 4, because {nothing}; at 3, because it never ran: "
    assert sentence.startswith(f"{expected}nothing is wrong")
    assert "more calibration images may help" in sentence
    assert warnings_of({"blocks": blocks[:1], "tuning": None}) == []


def test_a_tuning_that_is_not_kept_is_reported_with_the_reason() -> None:
    (sentence,) = warnings_of({"tuning": {"kept": False, "why": "the loss had grown"}})
    assert sentence.startswith("the network was not fine-tuned, because the loss had grown: ")
    assert "nothing is wrong" in sentence
    assert "more calibration images" in sentence
    (diverged,) = warnings_of({"tuning": {"kept": False, "why": "its loss was not a number"}})
    assert "nothing is wrong" not in diverged
    assert "calibration images" in diverged
    assert warnings_of({"tuning": {"kept": True}}) == []
    assert warnings_of({"output_correction": {"kept": True}}) == []
    assert "not corrected" in warnings_of({"output_correction": {"kept": False}})[0]
    assert warnings_of({}) == []


def quantized(bits: int | None) -> Simulation:
    """Layers of 30,000 and 6,000 weights."""
    network = nn.Sequential(nn.Linear(50, 600), nn.ReLU(), nn.Linear(600, 10)).eval()
    images = torch.randn(4, 50)
    batches = ArgumentsOf([images], torch.device("cpu"))
    recipe = Recipe(weights=bits, activations=8, first_last=None, method="range")
    return quantize_captured(capture(network, (images,)), batches, recipe)


@pytest.fixture(scope="module")
def of_8_bits(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The size of the file at 8 bits."""
    path = tmp_path_factory.mktemp("entry") / "model.onnx"
    export(quantized(8), path, torch.randn(4, 50))
    return path.stat().st_size


@pytest.mark.parametrize("bits", [None, 8, 6, 5, 4, 3, 2])
def test_files_are_as_small_as_their_bits(bits: int | None, of_8_bits: int, tmp_path: Path) -> None:
    simulation, path = quantized(bits), tmp_path / "model.onnx"
    export(simulation, path, torch.randn(4, 50))
    size, packed = path.stat().st_size, packed_bytes(path, simulation)
    if bits in (None, 8):
        assert packed == size
    else:
        assert abs(packed - (of_8_bits - 36_000 * (8 - bits) / 8)) < 200
        assert packed < size < 1.05 * packed + 10_000


def test_an_entry_says_what_was_asked_for_and_what_ran(tmp_path: Path) -> None:
    recipe = Recipe(weights=8, activations=8, first_last=None, method="range", ranges="minmax")
    simulation, path = quantized(8), tmp_path / "model.onnx"
    export(simulation, path, torch.randn(4, 50))
    entry = variant_entry("w8a8", recipe, simulation, {"images": 7}, path)
    assert entry["seconds"] >= 0
    asked = {"name": "w8a8", "weights": 8, "activations": 8, "ranges": recipe.ranges}
    size = path.stat().st_size
    found = {"method": "range", "images": 7, "size_bytes": size, "packed_bytes": size}
    reported = {"blocks": [], "tuning": None, "output_correction": None, "judged_ranges": None}
    assert {k: v for k, v in entry.items() if k != "seconds"} == {**asked, **found, **reported}
