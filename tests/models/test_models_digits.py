from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from subbyte.data.digits import digits_split
from subbyte.data.transform import transform
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, load
from subbyte.models.digits import WEIGHTS


def test_the_bundled_weights_are_small_and_know_digits_they_have_not_seen() -> None:
    assert WEIGHTS.stat().st_size < 500_000
    spec = load(ModelConfig(name="digits"))
    assert spec.preprocessing is not None
    assert spec.classes is not None
    prepare = transform(spec.preprocessing)
    _, _, images, labels = digits_split()
    with torch.no_grad():
        batch = torch.stack([prepare(Image.fromarray(image)) for image in images])
        predicted = spec.module(batch).argmax(1)
    names = [spec.classes[index] for index in predicted]
    hits = sum(name == str(label) for name, label in zip(names, labels, strict=True))
    assert hits / len(labels) >= 0.97


def test_preprocessing_makes_the_training_digits_standard() -> None:
    spec = load(ModelConfig(name="digits"))
    assert spec.preprocessing is not None
    pixels = digits_split()[0] / 255
    assert spec.preprocessing.channels == 1
    assert spec.preprocessing.mean[0] == pytest.approx(np.mean(pixels), abs=1e-3)
    assert spec.preprocessing.std[0] == pytest.approx(np.std(pixels), abs=1e-3)


def test_a_checkpoint_takes_the_place_of_the_bundled_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = build("digits").state_dict()
    state["linear.bias"] = torch.arange(10.0)
    safetensors.torch.save_file(state, path)
    assert build("digits", checkpoint=path).linear.bias.tolist() == list(range(10))
    with pytest.raises(SubbyteError, match="always has 10 classes"):
        build("digits", num_classes=10)


def test_it_has_real_downsampling() -> None:
    module = build("digits")
    strides = [part.stride[0] for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    assert strides.count(2) == 4  # a 3×3 and a shortcut in each of two blocks
    assert module(torch.rand(3, 1, 8, 8)).shape == (3, 10)
