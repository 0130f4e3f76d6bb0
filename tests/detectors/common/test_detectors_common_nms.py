"""Non-maximum suppression of fixed shape."""

from __future__ import annotations

import pytest
import torch

from subbyte.detectors.common.nms import best_of, nms_scores


def test_nms_against_an_example_worked_by_hand() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [20, 20, 30, 30.0]]])
    scores = torch.tensor([[[0.9, 0.8, 0.7, 0.05], [0.1, 0.8, 0.9, 0.3]]])
    # Overlaps of the first three: 0.8, 0.4 and 0.5.
    expected = torch.tensor([[[0.9, 0, 0.7, 0], [0, 0.8, 0.9, 0.3]]])
    torch.testing.assert_close(nms_scores(boxes, scores, 0.55, 0.2, 4), expected)
    expected = torch.tensor([[[0.9, 0, 0.7, 0], [0, 0, 0.9, 0.3]]])
    torch.testing.assert_close(nms_scores(boxes, scores, 0.45, 0.2, 4), expected)
    expected = torch.tensor([[[0.9, 0, 0, 0], [0, 0, 0.9, 0]]])
    torch.testing.assert_close(nms_scores(boxes, scores, 0.45, 0.2, 1), expected)


def test_the_best_are_those_of_the_highest_scores_and_the_rest_is_zero() -> None:
    boxes = torch.arange(12.0).reshape(1, 3, 4) + 1
    scores, labels = torch.tensor([[0.2, 0.0, 0.7]]), torch.tensor([1, 2, 3])
    found, best, classes, count = best_of(boxes, scores, labels, 4)
    assert count.tolist() == [2]
    assert best.tolist() == [pytest.approx([0.7, 0.2, 0, 0])]
    assert classes.tolist() == [[3, 1, 0, 0]]
    assert found.tolist() == [[[9, 10, 11, 12], [1, 2, 3, 4], [0] * 4, [0] * 4]]
