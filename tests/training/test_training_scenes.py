from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from subbyte.data.detection.scenes import scene, scenes
from subbyte.models import ModelConfig, load
from subbyte.models import __file__ as models_file
from subbyte.training.evaluate import figures
from subbyte.training.scenes import FIRST, SCENES, VariedScenes, config, main, placing

WEIGHTS = Path(models_file).parent / "weights" / "digit_scenes.safetensors"


def test_the_command_writes_a_file_that_loads_whatever_the_threads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subbyte.training.scenes.COUNTS", {"train": 4, "evaluation": 4})
    threads = torch.get_num_threads()
    random = torch.random.get_rng_state()
    files = [tmp_path / name / "weights.safetensors" for name in ("one", "other")]
    for file in files:
        assert main(["--out", str(file), "--scenes", "32"]) == 0
        torch.manual_seed(3)
    assert "on 4 evaluation scenes" in capsys.readouterr().out
    assert torch.get_num_threads() == threads
    assert random.shape == torch.random.get_rng_state().shape
    assert [entry.name for entry in files[0].parent.iterdir()] == ["weights.safetensors"]
    first, second = (safetensors.torch.load_file(file) for file in files)
    assert all(torch.equal(first[name], second[name]) for name in first)
    spec = load(ModelConfig(name="digit_scenes", checkpoint=files[0]))
    assert spec.classes == tuple("0123456789")
    assert main(["--out", str(tmp_path), "--scenes", "32"]) == 2
    assert "is a folder: name a file to write" in capsys.readouterr().err


def test_the_bundled_weights_have_learned_to_place_boxes_last() -> None:
    """They took as many steps as `make` takes on those scenes that come after the first."""
    with safetensors.safe_open(WEIGHTS, "pt") as file:
        made = json.loads(file.metadata()["subbyte"])
    assert made["steps"] == (SCENES - round(FIRST * SCENES)) // config().batch_size
    found = placing(Path("found"), seed=3)
    assert (found.checkpoint, found.seed) == (Path("found"), 3)
    assert found.box_beta < config().box_beta


def test_scenes_are_drawn_when_they_are_asked_for_and_no_two_are_alike() -> None:
    drawn = VariedScenes(10**9)
    image, target = drawn[10**9 - 1]
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 128, 128))
    assert len(target["boxes"]) == len(target["labels"]) >= 2
    again, _ = drawn[10**9 - 1]
    assert torch.equal(image, again)
    assert not torch.equal(image, drawn[0][0])


def test_varied_digits_are_those_of_the_split_in_other_shapes() -> None:
    shapes = []
    for varied in (False, True):
        found = [scene("train", index, varied=varied)[1] for index in range(60)]
        boxes = np.concatenate([objects.boxes for objects in found])
        assert boxes.min() >= 0
        assert boxes.max() <= 128
        shapes.append((boxes[:, 2:] - boxes[:, :2]).max(0))
    (_, plain), (_, turned) = shapes
    assert plain <= 48 < turned  # a digit that is turned is higher
    np.testing.assert_array_equal(scene("train", 3)[0], scenes("train", [3]).images.images[0])  # type: ignore[union-attr]


def test_the_bundled_weights_find_digits_that_they_have_not_seen() -> None:
    assert WEIGHTS.stat().st_size < 3_000_000
    spec = load(ModelConfig(name="digit_scenes", checkpoint=WEIGHTS))
    found = figures(spec.module, scenes("evaluation", range(100)))  # type: ignore[arg-type]
    assert found["AP"] is not None
    assert found["AP"] >= 0.75
