"""Detectors whose own code runs around a network that a runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from small_detectors import detector, pictures
from subbyte import api
from subbyte.detectors.common.own_code import computed_by
from subbyte.graph.float_model import FloatModel


@pytest.fixture(scope="module")
def captured() -> FloatModel:
    """Faster R-CNN, of which nothing but the backbone is a graph."""
    return api.capture(detector("fasterrcnn"), (pictures(),), ("backbone",))


class Runs:
    """In place of a file in a runtime: PyTorch, with all results multiplied."""

    def __init__(self, captured: FloatModel, factor: float) -> None:
        self.captured, self.factor, self.batches = captured, factor, 0

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        self.batches += 1
        outputs = self.captured.region("backbone")(*map(torch.from_numpy, inputs))
        return [x.numpy() * self.factor for x in pytree.tree_leaves(outputs)]


@torch.no_grad()
def test_the_runtimes_results_become_boxes_by_the_models_own_code(captured: FloatModel) -> None:
    images = pictures(3)
    expected: Any = captured(images)
    session = Runs(captured, 1)
    found = computed_by(session, captured)(images)
    assert session.batches == 1
    assert all(len(image["boxes"]) > 0 for image in expected)
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@torch.no_grad()
def test_the_captured_model_itself_goes_on_without_the_runtime(captured: FloatModel) -> None:
    images = pictures(3)
    expected = captured(images)
    model = computed_by(Runs(captured, 0), captured)
    nothing, again = model(images), captured(images)
    for one, other, zeros in zip(expected, again, nothing, strict=True):
        assert torch.equal(one["scores"], other["scores"])
        assert not torch.equal(one["scores"], zeros["scores"])
