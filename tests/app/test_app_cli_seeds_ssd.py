"""The seed's detectors by name, on small folders in COCO's and Pascal VOC's own layout."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from subbyte.app import experiment
from subbyte.app.experiment import Experiment
from subbyte.data import categories
from subbyte.data.config import Splits
from subbyte.models import ModelConfig, build
from subbyte.recipe import Recipe

if TYPE_CHECKING:
    from .conftest import Cli, Refusal

BITS = {"w8a8": 8, "w7a7": 7, "w6a6": 6, "w5a5": 5, "w4a4": 4}
# The numbers of COCO's 80 categories, which are not in a row.
COCO_IDS = sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
WIDTH, HEIGHT = 320, 240
TRAIN, VAL = 4, 3  # images
OBJECT = """<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin>
<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""
Found = list[tuple[int, list[float], float]]  # label, corners, score


def checkpoint(name: str, path: Path) -> torch.nn.Module:
    """A model with random weights that finds something, and its file in the project's own form."""
    model = build(name)
    with torch.no_grad():
        for head in model.network.get_submodule(model.network.names.classes):
            for weight in head.parameters():
                weight.mul_(200)
    torch.save({"model": model.network.state_dict()}, path)
    return model


def picture(path: Path, seed: int) -> torch.Tensor:
    """Draw coloured blocks; the picture as it is in the file, [3, H, W] in [0, 1]."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(path)
    pixels = np.asarray(Image.open(path).convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def found_on(model: torch.nn.Module, image: torch.Tensor) -> Found:
    """What the model finds, the surest first."""
    with torch.no_grad():
        (found,) = model([image])
    columns = (found[key].tolist() for key in ("labels", "boxes", "scores"))
    return list(zip(*columns, strict=True))


def coco(root: Path, model: torch.nn.Module) -> tuple[float, int]:
    """COCO's layout, where the first 4 detections of the model are on each image of val2017.

    Returns COCO's own AP of the model's detections, and how many there are.
    """
    for seed in range(TRAIN):
        picture(root / f"train2017/{seed:012}.jpg", seed)
    images, rows, detections = [], [], []
    for seed in range(100, 100 + VAL):
        name = f"{seed:012}.jpg"
        found = found_on(model, picture(root / "val2017" / name, seed))
        images.append({"id": seed, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for place, (label, (x0, y0, x1, y1), score) in enumerate(found):
            row: dict[str, Any] = {"image_id": seed, "category_id": COCO_IDS[label - 1]}
            row["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            detections.append({**row, "score": score})
            if place < 4:
                area = (x1 - x0) * (y1 - y0)
                rows.append({"id": len(rows) + 1, **row, "area": area, "iscrowd": 0})
    named = zip(COCO_IDS, categories.COCO, strict=True)
    content = {"images": images, "annotations": rows}
    content["categories"] = [{"id": number, "name": name} for number, name in named]
    file = root / "annotations/instances_val2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), len(detections)


def voc(root: Path, model: torch.nn.Module) -> None:
    """Pascal VOC's layout: trainval, and test, with the model's first detections on each image."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, seeds in (("trainval", range(TRAIN)), ("test", range(100, 100 + VAL))):
        for seed in seeds:
            found = found_on(model, picture(root / f"JPEGImages/{seed:06}.jpg", seed))[:4]
            objects = "".join(
                OBJECT.format(categories.VOC[label - 1], box[0] + 1, box[1] + 1, box[2], box[3])
                for label, box, _ in found
            )
            (root / f"Annotations/{seed:06}.xml").write_text(
                f"<annotation>{objects or OBJECT.format('cat', 5, 5, 90, 90)}</annotation>"
            )
        listed = "".join(f"{seed:06}\n" for seed in seeds)
        (root / f"ImageSets/Main/{split}.txt").write_text(listed)


def settings(name: str) -> Experiment:
    """A built-in experiment, with a folder of images that nobody has looked for."""
    return experiment.load(f"seeds/{name}", ["data.root=images"])


@pytest.mark.parametrize(
    ("name", "model", "published"),
    [
        ("ssd300-nvidia", "nvidia_ssd300_resnet50", "epoch_64.pt"),
        ("ssd-checkpoint", "ssd300_vgg16_amdegroot", "ssd300_mAP_77.43_v2.pth"),
    ],
)
def test_the_recipes_by_ranges_are_those_of_the_contract(
    name: str, model: str, published: str
) -> None:
    chosen = settings(name)
    assert chosen.model == ModelConfig(name=model, checkpoint=Path(published))
    by_ranges = {"symmetric_weights": False, "ranges": "avg", "method": "range", "first_last": None}
    assert chosen.variants == {
        key: Recipe(weights=bits, activations=bits, **by_ranges) for key, bits in BITS.items()
    }


def test_pytorch_hubs_is_quantized_by_the_default_recipe() -> None:
    chosen = settings("ssd-hub")
    published = Path("nvidia_ssdpyt_amp_200703.pt")
    assert chosen.model == ModelConfig(name="nvidia_ssd300_resnet50", checkpoint=published)
    assert chosen.data.format == "coco"
    assert chosen.variants == {
        key: Recipe(weights=bits, activations=bits) for key, bits in BITS.items()
    }


def test_the_recipe_by_lapq_is_that_of_the_contract() -> None:
    chosen = settings("ssd-lapq-voc")
    assert (chosen.model.name, chosen.data.calibration_images) == ("mb1_ssd", 194)
    (recipe,) = chosen.variants.values()
    lapq = {"name": "lapq", "start": "laplace", "max_evaluations": 1680}
    assert recipe == Recipe(
        weights=4, activations=8, per_channel=False, method=lapq, overrides=recipe.overrides
    )
    assert all((o.weights, o.activations) == (None, None) for o in recipe.overrides.values())
    layers = [
        name
        for name, module in build("mb1_ssd").named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    in_float = {n for n in layers if any(re.fullmatch(p, n) for p in recipe.overrides)}
    heads = {name for name in layers if "_headers." in name}
    assert in_float == {layers[0]} | heads
    assert len(heads) > 2


@pytest.mark.parametrize("name", ["ssd-checkpoint", "ssd-lapq-voc"])
def test_on_voc_the_splits_are_the_challenges(name: str) -> None:
    data = settings(name).data
    assert data.format == "voc"
    assert data.splits == Splits(calibration="trainval", evaluation="test")


def run(cli: Cli, name: str, out: Path, *changes: str) -> Any:
    """The results of a built-in experiment's first variant, in the simulation alone."""
    chosen = [part for change in ("runtimes=[]", *changes) for part in ("--set", change)]
    first = next(iter(settings(name).variants))
    result = cli("run", f"seeds/{name}", *chosen, "--only", first, "--out", out, "--quiet")
    assert result.exit_code == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["task"] == "detection"
    assert results["primary_metric"] == "AP"
    assert (results["calibration_images"], results["evaluation_images"]) == (TRAIN, VAL)
    assert [entry["name"] for entry in results["variants"]] == [first]
    for entry in (results["float"], *results["variants"]):
        assert entry["images"] == VAL
        assert 0 <= entry["metrics"]["AP"] <= 1
    return results


@pytest.mark.slow
def test_a_run_on_coco_reads_the_models_own_labels(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "published.pt"
    # In small: the file's ResNet-50 takes minutes.
    model = checkpoint("nvidia_ssd300_resnet18", file)
    expected, detections = coco(tmp_path / "coco", model)
    assert detections > 4 * VAL
    changes = f"data.root={tmp_path / 'coco'}", f"model.checkpoint={file}"
    small = "model.name=nvidia_ssd300_resnet18"
    results = run(cli, "ssd300-nvidia", tmp_path / "out", *changes, small)
    # By the model's own labels, 1 to 80, and not by the categories' ids.
    assert results["float"]["metrics"]["AP"] == pytest.approx(expected, abs=0.02)
    assert expected > 0.5


@pytest.mark.whole
def test_a_run_on_voc_by_lapq(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "published.pth"
    voc(tmp_path / "VOCdevkit/VOC2007", checkpoint("mb1_ssd", file))
    changes = [f"data.root={tmp_path}", f"model.checkpoint={file}"]
    changes += [f"data.calibration_images={TRAIN}", "variants.w4a8.method.max_evaluations=2"]
    (entry,) = run(cli, "ssd-lapq-voc", tmp_path / "out", *changes)["variants"]
    assert entry["method"] == "lapq"
    assert (entry["weights"], entry["activations"]) == (4, 8)


@pytest.mark.whole
def test_amdegroots_on_voc(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "published.pth"
    voc(tmp_path / "VOCdevkit/VOC2007", checkpoint("ssd300_vgg16_amdegroot", file))
    changes = f"data.root={tmp_path}", f"model.checkpoint={file}"
    run(cli, "ssd-checkpoint", tmp_path / "out", *changes)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("ssd300-nvidia", "COCO"), ("ssd-hub", "COCO"), ("ssd-checkpoint", "VOC"),
     ("ssd-lapq-voc", "VOC")],
)  # fmt: skip
def test_without_images_the_run_says_how_to_give_them(
    name: str, layout: str, refusal: Refusal
) -> None:
    message = refusal("run", f"seeds/{name}")
    assert f"give --set data.root=DIR, a data set in the layout of {layout}" in message
