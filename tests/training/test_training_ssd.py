from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
from torch import Tensor

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, load
from subbyte.models.ssd import SSD
from subbyte.training.config import Training, learning_rate
from subbyte.training.ssd import train

T = TypeVar("T")
STEPS = 4  # of `_config`: 2 epochs of 4 images in batches of 2


class Squares:
    """Noise of 64 × 64 with a red or green rectangle on it."""

    classes = ("red", "green")

    def __init__(self, count: int = 4, boxes: bool = True) -> None:
        self.count, self.boxes = count, boxes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(index)) / 4
        if not self.boxes:
            return image, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}
        label, start = index % 2, 4 + 5 * index
        image[label, start : start + 24, 10:40] = 1
        box = torch.tensor([[10.0, start, 40, start + 24]])
        return image, {"boxes": box, "labels": torch.tensor([label + 1])}


class Interrupting:
    """A `Progress` that is interrupted after so many items."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.descriptions: list[str] = []

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        self.descriptions.append(description)
        for item in items:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield item

    def working(self, description: str) -> AbstractContextManager[object]:
        return nullcontext()


def _config(**changes: Any) -> Training:
    fields: dict[str, Any] = {
        "model": "digit_scenes",
        "epochs": 2,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "save_seconds": 0,
    }
    return Training(**{**fields, **changes})


def _count(model: SSD) -> Mapping[str, float]:
    assert not model.training
    (found,) = model([torch.full((3, 50, 50), 0.5)])
    return {"found": len(found["scores"])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "optimizer", "bfloat16"), [(1, "sgd", False), (3, "adamw", True)]
)
def test_an_interrupted_run_goes_on_to_the_same_weights(
    after: int, optimizer: str, bfloat16: bool, tmp_path: Path
) -> None:
    fields = {"optimizer": optimizer, "bfloat16": bfloat16}
    config, parallel = (_config(**fields, workers=count) for count in (0, 1))
    torch.manual_seed(3)
    whole = train(_config(**fields, evaluate_every=1), Squares(), _count, tmp_path / "whole")
    torch.manual_seed(4)  # the caller's random numbers do not matter
    random = torch.random.get_rng_state()
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        train(config, Squares(), _count, part, progress=Interrupting(after))
    assert {file.name for file in part.iterdir()} >= {"state.pt"}
    with pytest.raises(SubbyteError, match="interrupted: resume it"):
        train(_config(), Squares(), None, part)
    changed = _config(**fields, learning_rate=0.1)
    with pytest.raises(SubbyteError, match=r"has learning_rate 0.001, and not 0.1: go on with"):
        train(changed, Squares(), None, part, resume=True)
    progress = Interrupting(100)
    resumed = train(parallel, Squares(), _count, part, resume=True, progress=progress)
    assert 100 - progress.left == STEPS - after
    assert torch.equal(torch.random.get_rng_state(), random)
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "part")]
    first, second = (safetensors.torch.load_file(file) for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
    floats = [value for value in first.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}
    ours, theirs = (
        [{k: v for k, v in row.items() if k in ("step", "classification")} for row in run.rows]
        for run in (resumed, whole)
    )
    assert ours == theirs


def test_what_comes_out(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    progress = Interrupting(100)
    trained = train(_config(), Squares(), _count, out, progress=progress)
    assert sorted(file.name for file in out.iterdir()) == ["log.jsonl", "model.safetensors"]
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert rows == trained.rows
    assert [(row["epoch"], row["step"], "found" in row) for row in rows] == [
        (1, 2, False),
        (2, 4, True),
    ]
    assert progress.descriptions[0] == "digit_scenes, epoch 1 of 2"
    assert progress.descriptions[1].startswith("digit_scenes, epoch 2 of 2, loss ")
    spec = load(ModelConfig(name="digit_scenes", checkpoint=out))
    assert spec.classes == ("red", "green")
    image = torch.rand(3, 64, 64)
    with torch.no_grad():
        ours, theirs = trained.model([image])[0], spec.module([image])[0]
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(SubbyteError, match="holds a trained model: name another folder"):
        train(_config(), Squares(), None, out)
    again = train(_config(), Squares(), None, out, resume=True)
    assert again.rows == rows
    assert torch.equal(again.model([image])[0]["scores"], ours["scores"])


def test_the_loss_of_what_it_is_shown_falls(tmp_path: Path) -> None:
    config = _config(epochs=12, batch_size=4, learning_rate=4e-3, clip_gradient=None)
    trained = train(config, Squares(), None, tmp_path / "run")
    losses = [row["bbox_regression"] + row["classification"] for row in trained.rows]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.whole
def test_processes_that_torchrun_starts_share_the_batches(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys, torch
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_training_ssd import Squares, _config, _count, train
trained = train(_config(), Squares(), _count, Path({str(tmp_path)!r}) / "out")
weights = sum(float(value.double().sum()) for value in trained.model.state_dict().values())
(Path({str(tmp_path)!r}) / f"sum{{trained.rows[-1].get('found') is None}}").write_text(str(weights))
"""
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run([*torchrun, "--nproc-per-node=2", str(script)], check=True, timeout=300)
    assert (tmp_path / "out" / "model.safetensors").exists()
    # Both processes have the same weights; only the first has evaluated.
    assert (tmp_path / "sumTrue").read_text() == (tmp_path / "sumFalse").read_text()


def test_a_loss_that_is_no_number_stops_and_leaves_the_last_good_weights(tmp_path: Path) -> None:
    config = _config(learning_rate=1e30, clip_gradient=None, warmup_steps=0)
    with pytest.raises(SubbyteError, match=r"the (loss|gradient) .* at step \d of 4, at a learn"):
        train(config, Squares(), None, tmp_path / "run")
    model = build("digit_scenes", checkpoint=tmp_path / "run" / "last_good.safetensors")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_data_without_images_or_boxes_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SubbyteError, match="has no image"):
        train(_config(), Squares(0), None, tmp_path / "run")
    with pytest.raises(SubbyteError, match="has no box on any of its 4 images"):
        train(_config(), Squares(boxes=False), None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_state_that_is_cut_off_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(_config(), Squares(), None, tmp_path, progress=Interrupting(1))
    content = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(SubbyteError, match=r"state\.pt is cut off"):
        train(_config(), Squares(), None, tmp_path, resume=True)


def test_the_learning_rate_rises_and_falls() -> None:
    config = Training(model="mb1_ssd", learning_rate=1.0, warmup_steps=3)
    rates = [learning_rate(config, step, 13) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[8] == pytest.approx(0.5)  # half of the way from 3 to 13
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.05
    steps = Training(model="mb1_ssd", learning_rate=1.0, warmup_steps=0, schedule="steps")
    rates = [learning_rate(steps, step, 12) for step in range(12)]
    assert rates == pytest.approx([1.0] * 8 + [0.1] * 2 + [0.01] * 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet18"}, "'resnet18' is not an SSD that can be trained: give nvidia_"),
        ({"epochs": 0}, "epochs is 0"),
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"device": "tpu"}, "'tpu' is not a device"),
        ({"checkpoint": "a", "backbone": "b"}, "exclude each other"),
        ({"checkpoint_key": "ema"}, "is of a checkpoint or backbone: give that too"),
        ({"milestones": (0.5, 1.5)}, "milestones.1 is 1.5"),
    ],
)
def test_bad_configurations_are_reported(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SubbyteError, match=message):
        _config(**changes)
