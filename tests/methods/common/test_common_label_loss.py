from __future__ import annotations

import math

import pytest
import torch

from subbyte.errors import SubbyteError
from subbyte.methods.common.label_loss import check_logits, label_loss


def test_logits_are_passed_on() -> None:
    logits = torch.rand(3, 4)
    assert check_logits(logits, 3) is logits


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ({"logits": torch.rand(2, 3)}, "the model returns a dict and not logits"),
        ((torch.rand(2, 3), None), "the model returns a tuple and not logits"),
        (torch.rand(2, 3, 4), r"shape \(2, 3, 4\) for a batch of 2"),
        (torch.rand(2), r"shape \(2,\) for a batch of 2"),
        (torch.rand(3, 2), r"shape \(3, 2\) for a batch of 2"),
        (torch.ones(2, 3, dtype=torch.int64), r"a torch\.int64 tensor"),
    ],
)
def test_what_is_not_logits_is_refused(output: object, told: str) -> None:
    with pytest.raises(SubbyteError, match=told):
        check_logits(output, 2)


def test_loss_is_the_mean_cross_entropy_with_the_labels() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])
    expected = -(math.log(3 / 4) + math.log(1 / 5)) / 2
    for labels in (torch.tensor([1, 1]), torch.tensor([1, 1], dtype=torch.int32), [1, 1]):
        assert float(label_loss(logits, labels)) == pytest.approx(expected)
    with pytest.raises(SubbyteError, match="labels go from 0 to 2 and the model has 2 classes"):
        label_loss(logits, torch.tensor([0, 2]))


def test_the_loss_by_labels_is_cross_entropy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert float(label_loss(logits, [0, 0])) == pytest.approx(expected)


def test_labels_that_do_not_fit_are_refused() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(SubbyteError, match="the labels go from 0 to 3 and the model has 3 classes"):
        label_loss(logits, [0, 3])
    with pytest.raises(SubbyteError, match="and not logits"):
        label_loss(logits[:, :, None], [0, 1])
    with pytest.raises(SubbyteError, match="the model returns a list and not logits"):
        label_loss([logits], [0, 1])
