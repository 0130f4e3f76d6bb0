"""A method that was interrupted goes on behind its last finished block, to the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from methods_helpers import model
from torch import nn

from residual import Residual
from subbyte import Recipe, SubbyteError, api
from subbyte.methods.gptq import layerwise as fitting
from subbyte.placement.simulation import Layer

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [IMAGES[:24], IMAGES[24:]]


def recipe(name: str, **fields: object) -> Recipe:
    options = {"activation_steps": 20} if name == "brecq" else {}
    method = {"name": name, "steps": 20, **options}
    return Recipe(**{"weights": 3, "activations": 4, "method": method, **fields})


class CutError(Exception):
    pass


def residual() -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return nn.Sequential(*stem, Residual(), *head).eval()


@pytest.mark.parametrize("finished", [1, 3])
def test_fitting_goes_on_behind_the_last_finished_layer(
    finished: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original, layers = fitting._fit, []

    def fit(where: fitting.Walk, layer: Layer, *rest: object) -> object:
        if len(layers) == finished and not rested:
            raise CutError
        layers.append(layer.name)
        return original(where, layer, *rest)  # type: ignore[arg-type]

    whole = api.quantize(residual(), BATCHES, recipe("subbyte"))
    monkeypatch.setattr(fitting, "_fit", fit)
    rested = False
    with pytest.raises(CutError):
        api.quantize(residual(), BATCHES, recipe("subbyte"), resume=tmp_path)
    rested = True
    again = api.quantize(residual(), BATCHES, recipe("subbyte"), resume=tmp_path)
    assert layers == [block["block"] for block in whole.facts.blocks]  # none was fitted twice
    assert layers == [block["block"] for block in again.facts.blocks]
    assert torch.equal(again(IMAGES), whole(IMAGES))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_other_work_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    api.quantize(model(), BATCHES, recipe("qdrop"), resume=tmp_path)
    with pytest.raises(SubbyteError, match=f"in {tmp_path} has weights 3 and this has 2"):
        api.quantize(model(), BATCHES, recipe("qdrop", weights=2), resume=tmp_path)
    with pytest.raises(SubbyteError, match="has seed 0 and this has 1"):
        api.quantize(model(), BATCHES, recipe("qdrop", seed=1), resume=tmp_path)
    with pytest.raises(SubbyteError, match="has first batch"):
        api.quantize(model(), [IMAGES.flip(0)], recipe("qdrop"), resume=tmp_path)
    other = model()
    with torch.no_grad():
        other[0].weight.mul_(1.5)
    with pytest.raises(SubbyteError, match="has model"):
        api.quantize(other, BATCHES, recipe("qdrop"), resume=tmp_path)


def test_methods_without_blocks_take_a_folder_too(tmp_path: Path) -> None:
    for name in ("range", "bias_correction"):
        plain = api.quantize(model(), BATCHES, Recipe(method=name))
        again = api.quantize(model(), BATCHES, Recipe(method=name), resume=tmp_path / name)
        assert torch.equal(plain(IMAGES), again(IMAGES))
