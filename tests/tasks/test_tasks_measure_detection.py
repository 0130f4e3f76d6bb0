"""A detector's images, its outputs for them, and what is said of these."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from annotated import FACTORY, coco_set, seen_by, voc_set, write_coco, write_images
from small_detectors import detector
from subbyte.api import capture, quantize_captured
from subbyte.data import DataConfig
from subbyte.data.batches import ArgumentsOf
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, ModelSpec, load
from subbyte.recipe import Recipe
from subbyte.tasks import classification, detection
from subbyte.tasks.base import Asked, Task, task_for
from subbyte.utils.progress import Silent


@pytest.fixture
def own() -> ModelSpec:
    """A small SSD for three classes, of which nothing is known."""
    return ModelSpec("own", detector("ssd"), "detection", None, None)


def asked(data: dict[str, Any], **changes: Any) -> Asked:
    return Asked(DataConfig(**data), **{"batch_size": 3, **changes})


def opened(spec: ModelSpec, data: dict[str, Any], **changes: Any) -> Task:
    return detection.open_task(asked(data, **changes), spec, Silent())[0]


def outputs(task: Task, model: nn.Module) -> Any:
    run = task.simulated(model)
    batches = task.data.evaluation.take(task.simulated_images)
    return task.outputs([run(batch["inputs"]) for batch in batches], [], task.simulated_images)


def test_what_the_model_itself_finds_is_found(own: ModelSpec, tmp_path: Path) -> None:
    task = opened(own, {"root": coco_set(tmp_path, own.module)})
    found = outputs(task, own.module)
    entry, notes = task.score(found)
    assert notes == []
    assert list(entry["metrics"]) == ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
    assert entry["metrics"]["AP50"] > 0.3
    assert entry["metrics"]["AP_large"] is None  # of 96 × 96 pixels and more
    assert sorted(entry["per_class"]) == ["ant", "bee", "cow"]
    assert entry["images"] == found.images == 4
    assert task.compare(found, found) == {"agreement": 1, "max_abs_diff": 0}
    task.save(found, tmp_path / "outputs.npz")
    assert task.compare(task.load(tmp_path / "outputs.npz"), found)["agreement"] == 1
    known = json.loads((tmp_path / "annotations/instances_val.json").read_text())["annotations"]
    assert task.coverage() == {"model": 3, "evaluated": len({k["category_id"] for k in known})}
    assert task.written[0].shape == (2, 3, 64, 64)
    assert task.metadata()["images"]["size"] == [64, 64]


def test_of_vocs_data_its_own_metrics_are_reported_too(own: ModelSpec, tmp_path: Path) -> None:
    root = voc_set(tmp_path, own.module)
    for data in ({"root": root}, {"root": root, "format": "voc"}):
        task = opened(own, {**data, "classes": root / "names.txt"})
        metrics = task.score(outputs(task, own.module))[0]["metrics"]
        assert list(metrics)[6:] == ["VOC_AP50", "VOC_AP50_11point"]
        # What is to be found is what this model finds, to a pixel.
        assert metrics["VOC_AP50"] > 0.3
        assert abs(metrics["VOC_AP50"] - metrics["AP50"]) < 0.1
        assert task.data.overlap == 3


def test_no_detections_at_all_are_an_ap_of_0_and_a_line(own: ModelSpec, tmp_path: Path) -> None:
    task = opened(own, {"root": coco_set(tmp_path, own.module)})
    found = outputs(task, own.module)
    silent: Any = detector("ssd")
    silent.score_thresh = 2.0
    nothing = outputs(task, silent)
    entry, notes = task.score(nothing)
    assert entry["metrics"]["AP"] == 0
    assert notes == ["no detections at all on 4 images: AP is 0"]
    assert task.compare(found, nothing) == {"agreement": 0, "max_abs_diff": None}


def test_images_of_several_sizes_are_reported(own: ModelSpec, tmp_path: Path) -> None:
    for split in ("train", "val"):
        first = write_images(tmp_path / split, 2, 4, (40, 56)), write_images(tmp_path / split, 1, 5)
        images = [first[1][0], first[0][1]]
        rows, sizes = seen_by(own.module, images), [(64, 64), (40, 56)]
        write_coco(tmp_path / f"annotations/instances_{split}.json", rows, sizes)
    task = opened(own, {"root": tmp_path})
    assert not task.reshapes
    assert any("of 2 sizes, and files take one, 64 high" in note for note in task.data.notes)
    # The simulation sees each image as it is.
    assert task.score(outputs(task, own.module))[0]["metrics"]["AP50"] > 0.3


def test_other_classes_are_named(own: ModelSpec, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split, 1, 3)
        path = write_coco(tmp_path / f"annotations/instances_{split}.json", [[]], [(64, 64)])
        content = json.loads(path.read_text())
        names = ("ant", "bee", "cow", "dog", "emu")
        content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        path.write_text(json.dumps(content))
    with pytest.raises(SubbyteError, match=r"has 5 classes and the model 3 .*dog \(id 4\)"):
        opened(own, {"root": tmp_path})


class Tuple(nn.Module):
    """Boxes and scores in a form of its own."""

    def forward(self, images: list[torch.Tensor]) -> Any:
        return torch.zeros(len(images), 5, 4), torch.zeros(len(images), 5)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Tuple(), r"returns a tuple of 2 \(Tensor\) and not detections: a detector returns a list"),
        (nn.Flatten(1), "does not run on a list of images .*: a detector takes such a list|wrap"),
    ],
)
def test_what_is_not_a_detector_is_refused_with_how_to_be_one(
    own: ModelSpec, tmp_path: Path, module: nn.Module, says: str
) -> None:
    coco_set(tmp_path, own.module, 1)
    with pytest.raises(SubbyteError, match=says):
        opened(ModelSpec("own", module, "detection", None, None), {"root": tmp_path})


def test_data_and_model_of_different_tasks_are_refused(own: ModelSpec) -> None:
    with pytest.raises(SubbyteError, match=r"give data\.name: digit-scenes, or a data set"):
        opened(own, {"name": "digits"})
    digits = load(ModelConfig(name="digits"))
    with pytest.raises(SubbyteError, match="a classifier needs images in class folders"):
        classification.open_task(asked({"name": "digit-scenes"}), digits, Silent())
    with pytest.raises(SubbyteError, match="has a meaning for detectors alone"):
        classification.open_task(asked({"name": "digits"}, postprocess=False), digits, Silent())


def test_a_factorys_detector_is_known_as_one(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    spec = load(ModelConfig(factory=f"{tmp_path / 'net.py'}:build"))
    assert spec.task == "detection"
    assert task_for(spec, DataConfig(root=tmp_path), own=True) is detection


def test_data_says_what_a_users_own_module_is_for_and_no_other(own: ModelSpec) -> None:
    images, objects = DataConfig(root="x"), DataConfig(root="x", format="voc")
    spec = ModelSpec("net", own.module, "classification", None, None)
    assert task_for(spec, objects, own=True) is detection
    assert task_for(spec, objects, own=False) is classification
    assert task_for(spec, images, own=True) is classification


def test_the_simulation_takes_some_of_the_images(own: ModelSpec, tmp_path: Path) -> None:
    root = coco_set(tmp_path, own.module)
    task, whole = opened(own, {"root": root}, simulation_images=2), opened(own, {"root": root})
    assert task.simulated_images == (1, 3)
    some, everything = outputs(task, own.module), outputs(whole, own.module)
    assert some.image_ids.tolist() == [2, 4]
    common = everything.take(task.simulated_images)
    fidelity = task.compare(some, common)
    assert fidelity["agreement"] == 1
    assert fidelity["max_abs_diff"] < 1e-5  # other batches add up otherwise
    assert task.score(some)[0]["images"] == 2
    task.illustrate(tmp_path, "w8a8", some, common)
    assert (tmp_path / "scenes.png").is_file()


@pytest.mark.slow
def test_noise_is_that_against_the_users_own_model(own: ModelSpec, tmp_path: Path) -> None:
    task = opened(own, {"root": coco_set(tmp_path, own.module)})
    float_model = capture(own.module, task.example)
    batches = ArgumentsOf(task.data.calibration, torch.device("cpu"))
    recipe = Recipe(weights=4, activations=8, first_last=None, method="bias_correction")
    quantized = quantize_captured(float_model, batches, recipe)
    assert quantized.params.biases  # so that a float model with these biases is another
    found = outputs(task, own.module)
    entry = task.compare_with_float(found, outputs(task, quantized), quantized, float_model)

    signal = noise = 0.0
    model: Any = own.module
    for batch in task.data.evaluation:
        with torch.no_grad():
            images, _ = model.transform(batch["inputs"])
            heads = model.head(list(model.backbone(images.tensors).values()))
            raw = pytree.tree_leaves(quantized.raw(batch["inputs"]))
        for exact, other in zip(heads.values(), raw, strict=True):
            signal += float(exact.double().square().sum())
            noise += float((exact - other).double().square().sum())
    assert entry["sqnr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=0.01)
