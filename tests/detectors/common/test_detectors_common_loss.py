"""A detector's own training loss, of the raw outputs of its regions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import subbyte
from small_detectors import detector, pictures
from subbyte import api
from subbyte.detectors import training_loss
from subbyte.errors import SubbyteError
from subbyte.models import build


def targets_of(images: list[torch.Tensor]) -> list[dict[str, Any]]:
    boxes = torch.tensor([[4.0, 5, 30, 40], [10, 20, 60, 50]])
    found: list[dict[str, Any]] = [
        {"boxes": boxes, "labels": torch.tensor([1, 3]), "size": tuple(image.shape[-2:])}
        for image in images
    ]
    found[1] |= {"boxes": boxes[:0], "labels": torch.tensor([], dtype=torch.int64)}
    return found


def in_training(model: nn.Module, images: Any, targets: Any) -> float:
    """What the model itself says in training mode, with the statistics of its batch norms."""
    model.train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    with torch.no_grad():
        losses = model(images, targets)
    model.eval()
    return float(sum(value.sum() for value in losses.values()))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("ssd", "fcos", "digit_scenes")]


@pytest.mark.parametrize("name", ["retinanet", *SLOW])
def test_it_is_what_the_model_says_in_training_mode(name: str) -> None:
    model = build(name) if name == "digit_scenes" else detector(name)
    images = pictures(3, (64, 64) if name == "retinanet" else (96, 80))
    captured = api.capture(model, (images,))
    loss = training_loss(captured, model)
    assert loss is not None
    targets = targets_of(images)
    modes = [part.training for part in captured.model.modules()]
    with torch.no_grad():
        raw = captured.raw(images)
        found = float(loss(raw, targets))
        assert found == pytest.approx(in_training(model, images, targets), rel=1e-5)
        again = captured.raw(images)  # all is again what it was
        assert [part.training for part in captured.model.modules()] == modes
        assert all(torch.equal(a, b) for a, b in zip(raw, again, strict=True))
        crowd = [{**t, "iscrowd": torch.ones(len(t["labels"]))} for t in targets]
        nothing = [{**t, "boxes": t["boxes"][:0], "labels": t["labels"][:0]} for t in targets]
        assert float(loss(raw, crowd)) == float(loss(raw, nothing)) != found


@pytest.mark.slow
def test_targets_that_do_not_fit_are_refused() -> None:
    images = pictures(2)
    model = build("digit_scenes")
    captured = api.capture(model, (images,))
    loss = training_loss(captured, model)
    targets = targets_of(images)
    targets[0]["labels"] = torch.tensor([1, 11])
    assert loss is not None
    with pytest.raises(SubbyteError, match=r"no loss for the targets.*label 11"):
        loss(captured.raw(images), targets)


@pytest.mark.slow
def test_of_two_stages_it_is_not_known() -> None:
    model = detector("fasterrcnn")
    assert training_loss(api.capture(model, (pictures(2),)), model) is None


@pytest.mark.slow
def test_lapq_searches_by_it_where_there_are_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(4)
    targets = [{k: t[k] for k in ("boxes", "labels")} for t in targets_of(images)]
    model, seen = build("digit_scenes"), []
    own = model.losses
    monkeypatch.setattr(type(model), "losses", lambda self, *args: seen.append(args) or own(*args))
    lapq = {"name": "lapq", "start": "minmax", "max_evaluations": 2}
    subbyte.quantize(model, [(images, targets)], subbyte.Recipe(method=lapq))
    assert seen
    seen.clear()
    outputs = {**lapq, "targets": "outputs"}
    subbyte.quantize(model, [(images, targets)], subbyte.Recipe(method=outputs))
    subbyte.quantize(model, [images], subbyte.Recipe(method=lapq))
    assert not seen
    labels = subbyte.Recipe(method={**lapq, "targets": "labels"})
    with pytest.raises(SubbyteError, match="not known: give targets: outputs"):
        subbyte.quantize(detector("fasterrcnn"), [(images, targets)], labels)
