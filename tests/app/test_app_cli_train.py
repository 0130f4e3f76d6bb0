"""`subbyte train` on small folders in Pascal VOC's and COCO's layout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from subbyte.app import experiment
from subbyte.models import ModelConfig, build, load
from subbyte.training import run as training
from subbyte.training.state import LAST_GOOD
from subbyte.utils.progress import Silent

if TYPE_CHECKING:
    from .conftest import Cli, Refusal

T = TypeVar("T")
SIDE = 64
NAMES = ("dark", "light")
TRAINING = {
    "model": "digit_scenes",
    "epochs": 2,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "save_seconds": 0,
    "zoom_out": 1.0,
}
OBJECT = """<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin>
<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def picture(path: Path, seed: int) -> tuple[str, tuple[int, int, int, int]]:
    """Draw a grey picture with a square; what it is called, and x, y, width and height."""
    kind = seed % 2
    pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
    x, y, side = 4 + 3 * seed, 6 + 2 * seed, 24 + seed
    pixels[y : y + side, x : x + side] = 20 + 200 * kind
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return NAMES[kind], (x, y, side, side)


def voc(root: Path, boxes: bool = True) -> Path:
    """Four pictures in the split train and two in val, in Pascal VOC's layout."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, seeds in (("train", range(4)), ("val", range(4, 6))):
        for seed in seeds:
            name, (x, y, w, h) = picture(root / "JPEGImages" / f"{seed}.jpg", seed)
            found = OBJECT.format(name, x + 1, y + 1, x + w, y + h) if boxes else ""
            (root / "Annotations" / f"{seed}.xml").write_text(f"<annotation>{found}</annotation>")
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{seed}\n" for seed in seeds))
    return root


def coco(root: Path, names: Sequence[str] = NAMES) -> Path:
    """The same in COCO's layout, where the categories have the numbers 3 and 7."""
    ids = dict(zip(names, (3, 7), strict=True))
    for split, seeds in (("train2017", range(4)), ("val2017", range(4, 6))):
        images, rows = [], []
        for seed in seeds:
            name, box = picture(root / split / f"{seed}.jpg", seed)
            images.append(
                {"id": seed + 1, "file_name": f"{seed}.jpg", "width": SIDE, "height": SIDE}
            )
            rows.append({"id": seed + 1, "image_id": seed + 1, "category_id": ids[name]})
            rows[-1] |= {"bbox": list(box), "area": box[2] * box[3], "iscrowd": 0}
        content = {"images": images, "annotations": rows}
        content["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def write(folder: Path, root: Path, **changes: Any) -> Path:
    """An experiment's file whose training is `TRAINING` with `changes`."""
    file = folder / "small.yaml"
    fields = {"data": {"root": str(root)}, "training": {**TRAINING, **changes}}
    file.write_text(yaml.safe_dump(fields))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("make", [voc, coco])
def test_what_is_trained_is_a_checkpoint(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, make(tmp_path / "data"), evaluate_every=1)
    result = cli("train", file, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    said = json.loads(result.stdout)
    assert said["folder"] == "trained/small"
    assert [row["epoch"] for row in said["rows"]] == [1, 2]
    spec = load(ModelConfig(name="digit_scenes", checkpoint=tmp_path / "trained/small"))
    assert spec.classes == NAMES
    assert spec.module.num_classes == 3
    assert {"AP", "AP50", "VOC_AP50"} <= set(said["metrics"]) <= set(said["rows"][0])
    kept = yaml.safe_load((tmp_path / "trained/small/training.yaml").read_text())
    assert kept["training"]["epochs"] == 2
    again = cli("train", tmp_path / "trained/small/training.yaml", "--out", "again", "--quiet")
    assert (again.exit_code, again.output) == (0, "")
    assert same_weights(tmp_path / "trained/small", tmp_path / "again")


def test_a_start_of_several_weights_is_named_and_a_key_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (
        {k: v + shift for k, v in build("digit_scenes", num_classes=3).network.state_dict().items()}
        for shift in (0, 1)
    )
    torch.save({"model": first, "ema": {"module": second}}, tmp_path / "both.pt")
    still = {"checkpoint": "both.pt", "epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0}
    file = write(tmp_path, voc(tmp_path / "data"), **still)
    said = cli("train", file, "--out", "last").stdout
    assert "note: the weights are those under model in both.pt" in said
    assert "ema.module (averaged)" in said
    result = cli("train", file, "--set", "training.checkpoint_key=ema.module", "--out", "mean")
    assert result.exit_code == 0, result.stderr
    assert "the weights are" not in result.stdout
    for folder, start in (("last", first), ("mean", second)):
        found = safetensors.torch.load_file(tmp_path / folder / "model.safetensors")
        name = next(name for name, value in start.items() if value.dim() == 4)
        torch.testing.assert_close(found[name], start[name])


def same_weights(one: Path, other: Path) -> bool:
    first, second = (
        safetensors.torch.load_file(folder / "model.safetensors") for folder in (one, other)
    )
    return (
        all(torch.equal(first[key], second[key]) for key in first) and first.keys() == second.keys()
    )


class Interrupting(Silent):
    """A `Progress` that is interrupted after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            if description.startswith("digit_scenes, epoch"):
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
            yield item


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, cli: Cli) -> None:
    file = write(tmp_path, voc(tmp_path / "data"))
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert cli("train", file, "--out", whole, "--quiet").exit_code == 0
    with pytest.raises(KeyboardInterrupt):
        training.run(experiment.load_training(str(file)), part, progress=Interrupting(3))
    assert not (part / "model.safetensors").exists()
    unlike = cli("train", file, "--out", part, "--set", "training.seed=1", "--resume")
    assert (unlike.exit_code, unlike.stdout) == (2, "")
    assert "has seed 0, and not 1" in unlike.stderr
    assert "resume it, or name another" in cli("train", file, "--out", part).stderr
    resumed = cli("train", file, "--out", part, "--resume")
    assert resumed.exit_code == 0
    assert resumed.stdout.startswith(f"{part}: AP ")
    assert same_weights(whole, part)


def test_model_device_and_seed_may_stand_outside_of_the_section(tmp_path: Path, cli: Cli) -> None:
    file = write(tmp_path, voc(tmp_path / "data"), epochs=1)
    fields = yaml.safe_load(file.read_text())
    del fields["training"]["model"]
    fields |= {"model": {"name": "digit_scenes"}, "seed": 5, "variants": {"w8a8": {}}}
    file.write_text(yaml.safe_dump(fields))
    assert cli("train", file, "--out", tmp_path / "out", "--device", "cpu").exit_code == 0
    kept = yaml.safe_load((tmp_path / "out/training.yaml").read_text())
    assert set(kept) == {"name", "data", "training"}
    assert (kept["training"]["model"], kept["training"]["seed"]) == ("digit_scenes", 5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epoch": 3}, "training: unknown key 'epoch': did you mean 'epochs'?"),
        ({"model": "resnet18"}, "'resnet18' is not an SSD that can be trained: give "),
        ({"checkpoint": "gone.safetensors"}, "gone.safetensors"),
        ({"device": "tpu"}, "'tpu' is not a device: give cpu or cuda"),
    ],
)
def test_keys_that_are_wrong_are_named(
    changes: dict[str, Any], sentence: str, tmp_path: Path, refusal: Refusal
) -> None:
    assert sentence in refusal("train", write(tmp_path, voc(tmp_path / "data"), **changes))


def test_files_that_are_wrong_are_named(tmp_path: Path, refusal: Refusal) -> None:
    file = write(tmp_path, voc(tmp_path / "data"))
    assert "unknown key 'trainng'" in refusal("train", file, "--set", "trainng.epochs=1")
    assert "no section training: give one" in refusal("train", "digits")
    gone = refusal("train", file, "--set", "data.root=gone")
    assert "data.root gone does not exist: give a folder" in gone
    split = refusal("train", file, "--set", "data.splits={calibration: trian, evaluation: val}")
    assert "trian" in split


def test_images_without_boxes_or_annotations_are_no_training_set(
    tmp_path: Path, refusal: Refusal
) -> None:
    bare = write(tmp_path, voc(tmp_path / "bare", boxes=False))
    assert "has no box on any of its 4 images" in refusal("train", bare)
    root = coco(tmp_path / "coco")
    (root / "annotations/instances_train2017.json").unlink()
    file = write(tmp_path, root)
    assert "nothing says what is on the images to train on" in refusal("train", file)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path, refusal: Refusal) -> None:
    state = build("digit_scenes", num_classes=3).network.state_dict()
    metadata = {"subbyte": json.dumps({"classes": ["light", "dark"]})}
    (tmp_path / "turned.safetensors").write_bytes(safetensors.torch.save(state, metadata))
    start = {"checkpoint": str(tmp_path / "turned.safetensors")}
    file = write(tmp_path, voc(tmp_path / "data"), **start)
    order = refusal("train", file)
    assert (
        "has the classes of the data in another order ('light' where the data has 'dark')" in order
    )
    other = refusal("train", file, "--set", "training.model=mb1_ssd")
    assert "it looks like a checkpoint of digit_scenes" in other


def test_a_loss_that_is_no_number_keeps_the_last_good_weights(tmp_path: Path, cli: Cli) -> None:
    wild = {"learning_rate": 1e30, "clip_gradient": None, "warmup_steps": 0}
    file = write(tmp_path, voc(tmp_path / "data"), **wild)
    result = cli("train", file, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    assert " of 4, at a learning rate of " in result.stderr
    good = build("digit_scenes", checkpoint=tmp_path / "out" / LAST_GOOD)
    assert all(value.isfinite().all() for value in good.state_dict().values())


@pytest.mark.whole
def test_processes_that_torchrun_starts_share_the_batches(tmp_path: Path) -> None:
    file = write(tmp_path, voc(tmp_path / "data"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ["--no-python", str(Path(sys.executable).with_name("subbyte"))]
    command = [*torchrun, *script, "train", str(file), "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert [row["step"] for row in json.loads(done.stdout)["rows"]] == [2, 4]
    assert (tmp_path / "out/model.safetensors").is_file()
