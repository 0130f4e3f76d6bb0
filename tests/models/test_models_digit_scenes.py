"""The bundled detector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from subbyte.detectors import label_count
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, load
from subbyte.models.families.digit_scenes import WEIGHTS


def test_the_bundled_weights_are_small_and_know_their_classes() -> None:
    assert WEIGHTS.stat().st_size < 3_000_000
    spec = load(ModelConfig(name="digit-scenes"))
    assert spec.task == "detection"
    assert spec.classes == tuple("0123456789")
    assert label_count(spec.module) == 11
    assert not spec.module.training


def test_a_checkpoint_takes_the_place_of_the_bundled_weights(tmp_path: Path) -> None:
    state = build("digit_scenes").network.state_dict()
    path = tmp_path / "own.safetensors"
    save_file({name: value.clone() for name, value in state.items()}, str(path))
    own = build("digit-scenes", checkpoint=path).network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in state.items())
    with pytest.raises(SubbyteError, match="comes with its weights"):
        build("digit-scenes", weights="DEFAULT")
