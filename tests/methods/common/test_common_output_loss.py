"""What is made small: against PyTorch's own losses and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subbyte import Recipe, SubbyteError, api
from subbyte.data.batches import ArgumentsOf
from subbyte.methods.common.output_loss import divergence, divergences, portions_of

IMAGES = torch.randn(70, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(70) % 2


def portions(batches: list[object], images: int, targets: str):  # type: ignore[no-untyped-def]
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    read = ArgumentsOf(batches, torch.device("cpu"))
    captured = api.prepare(model, next(iter(read)), Recipe())
    return model, *portions_of(captured, read, images, targets)  # type: ignore[arg-type]


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


def test_images_keep_their_labels_in_portions() -> None:
    pairs: list[object] = [(IMAGES[:50], LABELS[:50]), (IMAGES[50:], LABELS[50:])]
    _, found, labelled = portions(pairs, 60, "auto")
    assert labelled
    assert [portion.images for portion in found] == [32, 18, 10]
    assert torch.equal(torch.cat([p.args[0] for p in found]), IMAGES[:60])
    assert torch.equal(torch.cat([p.targets for p in found]), LABELS[:60])


def test_without_labels_the_targets_are_the_float_outputs() -> None:
    for batches, targets in (
        ([IMAGES], "auto"),
        ([(IMAGES, LABELS)], "outputs"),
        ([(IMAGES[:8], LABELS[:8]), IMAGES[8:]], "auto"),  # not all have them
    ):
        model, found, labelled = portions(batches, 70, targets)
        assert not labelled
        with torch.no_grad():
            expected = model(IMAGES)
        assert torch.allclose(torch.cat([p.targets for p in found]), expected, atol=1e-6)


def test_labels_that_are_missing_are_missed() -> None:
    with pytest.raises(SubbyteError, match="targets is 'labels' and the calibration has images"):
        portions([IMAGES], 70, "labels")
