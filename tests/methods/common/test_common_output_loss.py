"""What is made small: against PyTorch's own losses and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from subbyte import SubbyteError
from subbyte.methods.common.output_loss import divergence, divergences, has_grown, label_loss


def test_divergence_of_logits_is_that_of_their_softmax() -> None:
    one, other = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    p, q = other.softmax(1), one.softmax(1)
    assert float(divergence(one, other)) == pytest.approx(float((p * (p / q).log()).sum() / 5))
    assert float(divergence(one, one)) == pytest.approx(0)


def test_divergence_of_other_outputs_is_their_relative_squared_error() -> None:
    expected = {"boxes": torch.tensor([[[3.0, 4.0]]]), "count": torch.tensor(3)}
    found = {"boxes": torch.tensor([[[3.0, 5.0]]]), "count": torch.tensor(4)}
    assert float(divergence(found, expected)) == pytest.approx(1 / 25)


def test_divergences_of_images_have_it_as_their_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    one, other = torch.randn(2, 5, 3, generator=generator).double()
    each = divergences(one, other)
    assert each.shape == (5,)
    torch.testing.assert_close(each.mean(), divergence(one, other))
    torch.testing.assert_close(each[2], divergence(one[2:3], other[2:3]))
    boxes, scores = torch.randn(2, 2, 5, 4, 6, generator=generator).unbind(1)
    found, expected = {"a": boxes[0], "b": boxes[1]}, {"a": scores[0], "b": scores[1]}
    each = divergences(found, expected)
    torch.testing.assert_close(each.mean(), divergence(found, expected))
    found["a"][1:], found["b"][1:] = expected["a"][1:], expected["b"][1:]
    assert divergences(found, expected)[1:].tolist() == [0, 0, 0, 0]


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


def test_growth_within_the_standard_error_is_chance() -> None:
    before = torch.tensor([0.1, 0.2, 0.3, 4.0])
    assert not has_grown(before, before)
    assert not has_grown(before, before - 0.05)
    assert has_grown(before, before + torch.tensor([0.05, 0.05, 0.06, 0.05]))
    # One image alone: in the mean 0.25 more, with a standard error of 0.25.
    assert not has_grown(before, before + torch.tensor([0.0, 0.0, 0.0, 0.999]) - 1e-3)
    assert has_grown(before, torch.tensor([0.1, 0.2, float("nan"), 4.0]))
    assert has_grown(before[:1], before[:1] + 0.01)
    assert not has_grown(before[:0], before[:0])  # none is held out
