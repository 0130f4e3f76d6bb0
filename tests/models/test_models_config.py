from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from subbyte.models import ModelConfig


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "resnet18"},
        {"name": "resnet18", "weights": "IMAGENET1K_V1"},
        {"name": "resnet18", "checkpoint": "a.pth", "num_classes": 5},
        {"name": "digits", "checkpoint": "a.safetensors"},
        {"name": "cifar_resnet20", "checkpoint": "a.th"},
        {"factory": "a.py:build", "arguments": {"width": 3}, "num_classes": 2},
        {"factory": "a.b:build", "checkpoint": "a.pt"},
        {"factory": "a.b:build", "checkpoint": "a.pt", "checkpoint_key": "ema.module"},
        {"onnx": "a.onnx"},
    ],
)
def test_what_makes_sense_is_taken(fields: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(fields)
    assert config.model_dump(exclude_unset=True, mode="json") == fields


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "give name"),
        ({"weights": "IMAGENET1K_V1"}, "give name"),
        ({"name": "resnet18", "factory": "a.py:build"}, "name and factory exclude each other"),
        ({"name": "resnet18", "onnx": "a.onnx"}, "name and onnx exclude each other"),
        ({"onnx": "a.onnx", "checkpoint": "a.pth"}, "leave all but onnx out"),
        ({"onnx": "a.onnx", "num_classes": 3}, "leave all but onnx out"),
        ({"factory": "a.py:build", "weights": "DEFAULT"}, "as checkpoint"),
        ({"name": "resnet18", "weights": "DEFAULT", "checkpoint": "a"}, "exclude each other"),
        ({"name": "resnet18", "arguments": {"width": 3}}, "arguments are for a factory"),
        ({"factory": "a.py:f", "arguments": {"num_classes": 3}, "num_classes": 3}, "given twice"),
        ({"name": "digits", "weights": "DEFAULT"}, "comes with its weights"),
        ({"name": "digits", "num_classes": 10}, "always has 10 classes"),
        ({"name": "cifar_resnet56", "weights": "DEFAULT"}, "published file as checkpoint"),
        ({"factory": "a.py:f", "checkpoint_key": "ema"}, "is of a checkpoint: give that too"),
        ({"name": "resnet18", "num_classes": 0}, "greater than or equal to 1"),
        ({"name": "resnet18", "weight": "DEFAULT"}, "Extra inputs"),
    ],
)
def test_what_makes_none_is_refused_in_one_sentence(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ModelConfig.model_validate(fields)
    faults = caught.value.errors()
    assert len(faults) == 1
    assert says in faults[0]["msg"]
    assert "\n" not in faults[0]["msg"]


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    config = ModelConfig(name="resnet18", checkpoint=Path("~/a.pth"))
    assert config.checkpoint == tmp_path / "a.pth"
