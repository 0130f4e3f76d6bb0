from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from subbyte.app.report.reading import chance, reading


def entry(name: str, top1: float, simulated: float | None, agreement: float) -> dict[str, Any]:
    runtime: dict[str, Any] = {"metrics": {"top1": top1}, "agreement": 1.0}
    if simulated is not None:
        runtime["simulated"] = {"top1": simulated}
    return {
        "name": name,
        "metrics": {"top1": top1},
        "images": 400,
        "agreement_with_float": agreement,
        "deployed": {"onnxruntime": {**runtime, "simulated": {"top1": top1}}, "openvino": runtime},
    }


def results(*variants: dict[str, Any], task: str = "classification") -> dict[str, Any]:
    primary = {"classification": "top1", "detection": "AP"}[task]
    return {
        "task": task,
        "primary_metric": primary,
        "evaluation_images": 500,
        "variants": list(variants),
    }


def test_what_a_runtime_is_compared_with_is_printed() -> None:
    found = reading(results(entry("w8a8", 0.776, 0.762, 0.98), entry("w4a8", 0.77, 0.765, 0.96)))
    (line,) = [line for line in found if line.startswith("openvino")]
    assert line.endswith("whose top1 % is 76.20 for w8a8, 76.50 for w4a8")
    assert not any(line.startswith("onnxruntime") for line in found)


def test_nothing_is_said_of_a_runtime_that_runs_the_simulation_s_file() -> None:
    found = reading(results(entry("w8a8", 0.776, 0.776, 0.98), entry("old", 0.7, None, 0.97)))
    assert not any("files of its own" in line for line in found)


def test_the_least_agreement_says_what_is_chance() -> None:
    found = reading(results(entry("w8a8", 0.776, 0.776, 0.99), entry("w2a4", 0.7, 0.7, 0.9)))
    (line,) = [line for line in found if line.startswith("chance")]
    assert "90.0 agree, as of w2a4" in line
    assert "less than 3.10 points on 400 images" in line
    exact = reading(results(entry("w8a8", 0.776, 0.776, 1.0)))
    assert not any(line.startswith("chance") for line in exact)


@pytest.mark.parametrize("disagree", [0.02, 0.2])
def test_chance_is_the_spread_of_the_difference(disagree: float) -> None:
    random, images = np.random.default_rng(0), 1000
    # Where two disagree, the one or the other is right.
    signs = random.choice([-1, 0, 1], p=[disagree / 2, 1 - disagree, disagree / 2], size=(4000, 1))
    drawn = random.choice(signs[:, 0], size=(2000, images)).mean(1)
    within = np.abs(drawn - drawn.mean()) <= chance(1 - disagree, images)
    assert 0.93 < within.mean() < 0.97


def test_a_run_without_variants_and_another_task() -> None:
    assert reading(results()) == []
    detector = entry("w8a8", 0.5, 0.5, 0.9)
    assert any("SQNR" in line for line in reading(results(detector, task="detection")))
