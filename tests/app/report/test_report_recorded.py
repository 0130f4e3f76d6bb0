"""What a run records for its page, beside what it records for results."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from ..conftest import Run


def test_answers_are_those_that_the_metric_counts(digits: Run) -> None:
    with np.load(digits.folder / "variants/w4a4/images.npz") as arrays:
        for run in ("simulation", "onnxruntime", "openvino"):
            right = arrays[f"{run}.answers"] == arrays[f"{run}.labels"]
            assert (right == arrays[f"{run}.top1"]).all()
    with np.load(digits.folder / "float/outputs.npz") as arrays:
        logits = arrays["logits"].astype(np.float64)
    with np.load(digits.folder / "float/images.npz") as arrays:
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        assert (arrays["simulation.answers"] == logits.argmax(1)).all()
        assert arrays["simulation.probabilities"] == pytest.approx(shares.max(1), abs=1e-6)


def test_the_change_from_float_has_the_interval_of_bonett_and_price(digits: Run) -> None:
    def right(entry: str) -> np.ndarray:
        with np.load(digits.folder / entry / "images.npz") as arrays:
            return np.array(arrays["onnxruntime.top1"])

    before, after = right("float"), right("variants/w4a4")
    found = digits.entry("w4a4")["deployed"]["onnxruntime"]["against_float"]
    n = len(before)
    lost, gained = (before & ~after).sum(), (after & ~before).sum()
    assert found["change"] == pytest.approx((gained - lost) / n)
    p, q = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = NormalDist().inv_cdf(0.975) * math.sqrt((p + q - (q - p) ** 2) / (n + 2))
    assert found["interval"] == pytest.approx([q - p - half, q - p + half])
    assert found["images"] == n


def test_the_gallery_has_the_surest_of_the_images_that_differ(digits: Run) -> None:
    gallery = json.loads((digits.folder / "variants/w4a4/gallery.json").read_text())
    runs = {}
    for entry in ("float", "variants/w4a4"):
        with np.load(digits.folder / entry / "images.npz") as arrays:
            keys = ("answers", "probabilities")
            runs[entry] = [np.array(arrays[f"simulation.{key}"]) for key in keys]
    (first, surely), (second, as_surely) = runs.values()
    differ = np.flatnonzero(first != second)
    assert gallery["found"] == len(differ)
    shown = [picture["image"] for picture in gallery["pictures"]]
    assert set(shown) <= set(differ.tolist())
    assert len(shown) == min(20, len(differ))
    sure = np.minimum(surely, as_surely)
    assert [sure[i] for i in shown] == sorted((sure[i] for i in shown), reverse=True)
    if len(differ) > len(shown):
        assert min(sure[shown]) >= max(sure[list(set(differ) - set(shown))])
    assert all((digits.folder / "variants/w4a4" / p["file"]).is_file() for p in gallery["pictures"])


def test_classes_and_the_command_are_recorded(digits: Run) -> None:
    assert json.loads((digits.folder / "float/classes.json").read_text()) == list("0123456789")
    environment = json.loads((digits.folder / "environment.json").read_text())
    assert environment["command"] is None, "a run that Python started has no command"
