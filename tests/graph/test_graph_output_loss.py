"""What is made small: against PyTorch's own losses and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from subbyte.graph.output_loss import Term, by_column, has_grown, loss_of_outputs, squared

LOSS = loss_of_outputs()


def mean(outputs: Any, targets: Any) -> torch.Tensor:
    return LOSS.mean(outputs, targets, ())


def distances(outputs: Any, targets: Any) -> torch.Tensor:
    return LOSS.distances(outputs, targets, ())


def test_divergence_of_logits_is_that_of_their_softmax() -> None:
    one, other = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    p, q = other.softmax(1), one.softmax(1)
    assert float(mean(one, other)) == pytest.approx(float((p * (p / q).log()).sum() / 5))
    assert float(mean(one, one)) == pytest.approx(0)


def test_divergence_of_other_outputs_is_their_relative_squared_error() -> None:
    expected = {"boxes": torch.tensor([[[3.0, 4.0]]]), "count": torch.tensor(3)}
    found = {"boxes": torch.tensor([[[3.0, 5.0]]]), "count": torch.tensor(4)}
    assert float(mean(found, expected)) == pytest.approx(1 / 25)


def test_divergences_of_images_have_it_as_their_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    one, other = torch.randn(2, 5, 3, generator=generator).double()
    each = distances(one, other)
    assert each.shape == (5,)
    torch.testing.assert_close(each.mean(), mean(one, other))
    torch.testing.assert_close(each[2], mean(one[2:3], other[2:3]))
    boxes, scores = torch.randn(2, 2, 5, 4, 6, generator=generator).unbind(1)
    found, expected = {"a": boxes[0], "b": boxes[1]}, {"a": scores[0], "b": scores[1]}
    each = distances(found, expected)
    torch.testing.assert_close(each.mean(), mean(found, expected))
    found["a"][1:], found["b"][1:] = expected["a"][1:], expected["b"][1:]
    assert distances(found, expected)[1:].tolist() == [0, 0, 0, 0]


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


def test_squared_gradients_of_the_random_sum_are_what_errors_cost() -> None:
    """One value costs 4, the other 9: their squared gradients are these, whatever the signs."""
    costs = torch.tensor([4.0, 9.0])
    loss = squared(lambda outputs, targets, args: [Term(outputs, targets, costs)])
    outputs = torch.randn(6, 2, requires_grad=True)
    loss.random_sum(outputs, (), range(6)).backward()
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad.square(), costs.expand(6, 2))


def test_squared_errors_are_relative_to_the_energy_with_their_costs() -> None:
    costs = torch.tensor([4.0, 0.0])
    loss = squared(lambda outputs, targets, args: [Term(outputs, targets, costs)])
    targets = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    outputs = torch.tensor([[1.5, 99.0], [3.0, 0.0]])
    assert float(loss.mean(outputs, targets, ())) == pytest.approx(0.5**2 / (1 + 9))
    each = loss.distances(outputs, targets, ())
    assert each.tolist() == pytest.approx([2 * 0.25 / 10, 0.0])


def test_outputs_of_which_terms_know_nothing_cost_alike() -> None:
    loss = squared(lambda outputs, targets, args: None)
    outputs, targets = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    assert float(loss.mean(outputs, targets, ())) == float(LOSS.mean(outputs, targets, ()))


@pytest.mark.parametrize(
    ("shape", "columns"), [((2, 3, 5, 5), 3), ((2, 50, 6), 6), ((2, 6, 50), 6), ((2, 7), 7)]
)
def test_columns_are_channels_or_the_shorter_dimension(
    shape: tuple[int, ...], columns: int
) -> None:
    rows = by_column(torch.zeros(shape))
    assert rows.shape == (columns, torch.zeros(shape).numel() // columns)
