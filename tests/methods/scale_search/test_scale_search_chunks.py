"""The images of a search: their targets, and which of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from small_detectors import detector, pictures
from subbyte import SubbyteError
from subbyte.api import capture
from subbyte.data.batches import ArgumentsOf
from subbyte.methods.scale_search.chunks import Chunk, Targets, chunks_of

IMAGES = torch.randn(70, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(70) % 2


def chunks(
    batches: list[Any], images: int, targets: Targets
) -> tuple[nn.Module, list[Chunk], bool]:
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    read = ArgumentsOf(batches, torch.device("cpu"))
    float_model = capture(model, next(iter(read)))
    return model, *chunks_of(float_model, read, images, targets)


def test_images_keep_their_labels_in_chunks() -> None:
    pairs: list[Any] = [(IMAGES[:50], LABELS[:50]), (IMAGES[50:], LABELS[50:])]
    _, found, labelled = chunks(pairs, 60, "auto")
    assert labelled
    assert [chunk.images for chunk in found] == [32, 18, 10]
    assert torch.equal(torch.cat([c.args[0] for c in found]), IMAGES[:60])
    assert torch.equal(torch.cat([c.targets for c in found]), LABELS[:60])


def test_without_labels_the_targets_are_the_float_outputs() -> None:
    cases: list[tuple[list[Any], Targets]] = [
        ([IMAGES], "auto"),
        ([(IMAGES, LABELS)], "outputs"),
        ([(IMAGES[:8], LABELS[:8]), IMAGES[8:]], "auto"),  # not all have them
    ]
    for batches, targets in cases:
        model, found, labelled = chunks(batches, 70, targets)
        assert not labelled
        with torch.no_grad():
            expected = model(IMAGES)
        assert torch.allclose(torch.cat([c.targets for c in found]), expected, atol=1e-6)


def test_labels_that_are_missing_are_missed() -> None:
    with pytest.raises(SubbyteError, match="targets is 'labels' and the calibration has images"):
        chunks([IMAGES], 70, "labels")


def test_of_a_detector_they_are_what_its_heads_give() -> None:
    model = detector("ssd")
    batches = ArgumentsOf([pictures(3)], torch.device("cpu"))
    float_model = capture(model, next(iter(batches)))
    (chunk,), _ = chunks_of(float_model, batches, 2, "outputs")
    assert chunk.images == 2
    given: list[torch.Tensor] = []
    handle = model.head.register_forward_hook(lambda _, __, outputs: given.extend(outputs.values()))
    with torch.no_grad():
        model(pictures(3)[:2])
    handle.remove()
    assert len(given) == len(chunk.targets)
    for mine in chunk.targets:
        assert any(x.shape == mine.shape and torch.allclose(x, mine, atol=1e-4) for x in given)
