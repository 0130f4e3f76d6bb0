"""The seed's detectors by name, on small folders in COCO's and Pascal VOC's own layout."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from subbyte import api
from subbyte.app import experiment
from subbyte.data import categories
from subbyte.models import build
from subbyte.placement.insert import check_overrides
from subbyte.recipe import Recipe

if TYPE_CHECKING:
    from .conftest import Cli, Refusal

RANGES = {"w8a8": 8, "w7a7": 7, "w6a6": 6, "w5a5": 5, "w4a4": 4}
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


def run(cli: Cli, name: str, out: Path, *settings: str, only: tuple[str, ...] = ()) -> Any:
    """The results of a built-in experiment."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    chosen += [part for variant in only for part in ("--only", variant)]
    result = cli("run", f"seeds/{name}", *chosen, "--out", out, "--quiet")
    assert result.exit_code == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["task"] == "detection"
    assert results["primary_metric"] == "AP"
    assert (results["calibration_images"], results["evaluation_images"]) == (TRAIN, VAL)
    for entry in (results["float"], *results["variants"]):
        assert set(entry["deployed"]) == {"onnxruntime", "openvino"}
        for measured in (entry, *entry["deployed"].values()):
            assert measured["images"] == VAL
            assert 0 <= measured["metrics"]["AP"] <= 1
    return results


@pytest.mark.slow
@pytest.mark.parametrize(("name", "only"), [("ssd300-nvidia", ()), ("ssd-hub", ("w8a8",))])
def test_nvidias_on_coco(name: str, only: tuple[str, ...], tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "published.pt"
    # In small: the file's ResNet-50 takes minutes.
    model = checkpoint("nvidia_ssd300_resnet18", file)
    expected, detections = coco(tmp_path / "coco", model)
    assert detections > 4 * VAL
    settings = [f"data.root={tmp_path / 'coco'}", f"model.checkpoint={file}"]
    settings.append("model.name=nvidia_ssd300_resnet18")
    results = run(cli, name, tmp_path / "out", *settings, only=only)
    # By the model's own labels, 1 to 80, and not by the categories' ids.
    assert results["float"]["metrics"]["AP"] == pytest.approx(expected, abs=0.02)
    assert expected > 0.5
    entries = {entry["name"]: entry for entry in results["variants"]}
    assert list(entries) == list(only or RANGES)
    for variant, entry in entries.items():
        assert (entry["weights"], entry["activations"]) == (RANGES[variant], RANGES[variant])


@pytest.mark.slow
def test_amdegroots_on_voc(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "published.pth"
    voc(tmp_path / "VOCdevkit/VOC2007", checkpoint("ssd300_vgg16_amdegroot", file))
    settings = [f"data.root={tmp_path}", f"model.checkpoint={file}"]
    results = run(cli, "ssd-checkpoint", tmp_path / "out", *settings, only=("w8a8",))
    assert [entry["name"] for entry in results["variants"]] == ["w8a8"]


@pytest.mark.slow
def test_qfgaohaos_on_voc_by_lapq(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "published.pth"
    voc(tmp_path / "voc", checkpoint("mb1_ssd", file))
    settings = [f"data.root={tmp_path / 'voc'}", f"model.checkpoint={file}"]
    settings += [f"data.calibration_images={TRAIN}", "variants.w4a8.method.max_evaluations=10"]
    results = run(cli, "ssd-lapq-voc", tmp_path / "out", *settings)
    (entry,) = results["variants"]
    assert (entry["name"], entry["method"]) == ("w4a8", "lapq")
    assert (entry["weights"], entry["activations"]) == (4, 8)


@pytest.mark.slow
def test_what_stays_in_float_is_in_the_model() -> None:
    settings = ["data.root=voc", "model.checkpoint=file.pth"]
    recipe = experiment.load("seeds/ssd-lapq-voc", settings).variants["w4a8"]
    nothing = Recipe(weights=None, activations=None)
    captured = api.prepare(build("mb1_ssd"), ([torch.rand(3, 300, 300)],), nothing)
    check_overrides(recipe, [layer.name for layer in captured.layers])


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
