"""Runs of detectors on small data sets."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from annotated import FACTORY, NAMES, coco_set, seen_by, write_coco, write_images
from own_heads import with_own_head
from processor import FITTING
from small_detectors import CLASSES, detector, pictures
from small_detectors import NAMES as DETECTORS
from subbyte.app import runner as pipeline
from subbyte.app.compare import compare
from subbyte.app.experiment import Experiment
from subbyte.errors import SubbyteError
from subbyte.targets.onnx.export import Files
from subbyte.tasks.metrics import detection as task

pytestmark = pytest.mark.slow

METRICS = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py builds a small detector; coco/ holds what it finds itself."""
    root = tmp_path_factory.mktemp("detection")
    (root / "net.py").write_text(FACTORY)
    coco_set(root / "coco", detector("ssd"))
    return root


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file is run none needs writing, which takes longer than all else."""

    def written(_: Any, folder: Path, *__: Any, **___: Any) -> Files:
        path = folder / "model.onnx"
        path.write_bytes(b"")
        return Files(path)

    monkeypatch.setattr(pipeline.target_files, "write_files", written)
    monkeypatch.setattr(pipeline.target_files, "export_float", written)


def experiment(folder: Path, data: Any = None, **changes: Any) -> Experiment:
    fields: dict[str, Any] = {
        "model": {"factory": f"{folder / 'net.py'}:build"},
        "data": data or {"root": folder / "coco"},
        "variants": {"w8a8": {"method": "range", **FITTING}},
        "runtimes": [],
        "batch_size": 3,
    }
    return Experiment(**{**fields, **changes})


def found_by_pycocotools(detections: list[dict[str, Any]], truth: Path) -> list[float]:
    """The twelve figures of COCO's own evaluation."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        evaluation = COCOeval(known, known.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


def test_a_runtimes_metrics_are_those_of_its_files_own_outputs(
    folder: Path, tmp_path: Path
) -> None:
    chosen = experiment(folder, runtimes=["onnxruntime"])
    out, results = pipeline.run(chosen, tmp_path / "out")
    assert (results["task"], results["primary_metric"]) == ("detection", "AP")
    (variant,) = results["variants"]
    deployed = variant["deployed"]["onnxruntime"]
    images = [
        np.asarray(Image.open(folder / f"coco/val/{i}.png"), np.float32).transpose(2, 0, 1) / 255
        for i in range(4)
    ]
    session = onnxruntime.InferenceSession(str(out / "variants/w8a8" / deployed["file"]))
    boxes, scores, labels, counts = session.run(None, {"input": np.stack(images)})
    detections = [
        {"image_id": i + 1, "category_id": int(labels[i, k]), "score": float(scores[i, k]),
         "bbox": [*boxes[i, k, :2].tolist(), *(boxes[i, k, 2:] - boxes[i, k, :2]).tolist()]}
        for i, count in enumerate(counts)
        for k in range(int(count))
    ]  # fmt: skip
    stats = found_by_pycocotools(detections, folder / "coco/annotations/instances_val.json")
    expected = [None if stat < 0 else pytest.approx(stat, abs=1e-6) for stat in stats[:6]]
    assert list(deployed["metrics"]) == METRICS
    assert list(deployed["metrics"].values()) == expected
    assert 0.3 < stats[0] < 1  # something is found, and quantization shows
    assert deployed["images"] == variant["images"] == 4
    assert deployed["agreement"] > 0.95
    assert 0 < deployed["max_abs_diff"] < 0.05
    assert deployed["latency_raw_ms"] > 0
    assert 0 < deployed["int8_ops"] <= deployed["int8_candidates"]
    assert not list(out.rglob("*raw*"))
    with Image.open(out / "variants/w8a8/scenes.png") as page:
        assert page.width > 2 * 64


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_with_a_head_of_ones_own_is_run(name: str, tmp_path: Path) -> None:
    code = (
        "from own_heads import with_own_head",
        "def build():",
        f"    return with_own_head({name!r})",
    )
    (tmp_path / "net.py").write_text("\n".join(code))
    coco_set(tmp_path / "coco", with_own_head(name))
    chosen = experiment(tmp_path, runtimes=["onnxruntime"])
    _, results = pipeline.run(chosen, tmp_path / "out")
    assert results["classes"]["model"] == CLASSES - 1
    (variant,) = results["variants"]
    assert variant["metrics"]["AP"] > 0.1
    assert variant["deployed"]["onnxruntime"]["agreement"] > 0.95


@pytest.mark.slow
@pytest.mark.usefixtures("no_files")
def test_an_entry_says_what_became_of_the_objects(folder: Path, tmp_path: Path) -> None:
    variants = {"same": {"weights": None, "activations": None, "first_last": None}, "w4a4": {
        "weights": 4, "activations": 4, "method": "range"}}  # fmt: skip
    out, results = pipeline.run(experiment(folder, variants=variants), tmp_path / "out")
    same, coarse = results["variants"]
    model, names = results["float"], sorted(NAMES)
    assert same["metrics"] == model["metrics"]
    assert sorted(model["per_class"]) == names
    assert (same["agreement_with_float"], same["sqnr_db"]) == (1, None)
    # The float model's own threshold is the score of one of them, which may differ by rounding.
    assert round(same["objects"]["lost"] * same["objects"]["detections"]) <= 1
    assert same["objects"]["gained"] == 0
    assert same["objects"]["iou"] == pytest.approx(1)
    assert coarse["agreement_with_float"] < 1
    assert 0 < coarse["sqnr_db"] < 40
    of_outputs = coarse["sqnr_db_outputs"]
    assert set(of_outputs) == {"head.bbox_regression", "head.cls_logits"}
    assert coarse["sqnr_db_worst"] == min(of_outputs.values()) <= coarse["sqnr_db"]
    assert same["sqnr_db_outputs"] == dict.fromkeys(of_outputs)
    assert same["sqnr_db_worst"] is None
    assert coarse["metrics"]["AP"] < model["metrics"]["AP"]
    assert results["classes"]["model"] == 3
    saved = task.load(out / "float/outputs.npz")
    with torch.no_grad():
        expected = detector("ssd")([*write_images(tmp_path / "again", 4, 2)])
    for boxes, own in zip(saved.boxes, expected, strict=True):
        np.testing.assert_allclose(boxes, own["boxes"].numpy(), atol=1e-4)


@pytest.mark.usefixtures("no_files")
def test_two_runs_of_a_detector_are_compared_image_by_image(folder: Path, tmp_path: Path) -> None:
    variants = {"w8a8": {"method": "range"}, "w3a3": {
        "weights": 3, "activations": 3, "method": "range"}}  # fmt: skip
    out, results = pipeline.run(experiment(folder, variants=variants), tmp_path / "out")
    same = compare(out, out)
    assert {row.verdict for row in same.rows if row.metric == "AP"} == {"same"}
    other = tmp_path / "other"
    shutil.copytree(out, other)
    shutil.copy(out / "variants/w3a3/images.npz", other / "variants/w8a8/images.npz")
    found = compare(out, other, only=["w8a8"])
    (row,) = [row for row in found.rows if row.metric == "AP"]
    fine, coarse = (entry["metrics"]["AP"] for entry in results["variants"])
    assert (row.before, row.after) == pytest.approx((fine, coarse))
    assert row.interval is not None
    assert row.interval[0] <= row.change <= row.interval[1]
    assert row.images == results["evaluation_images"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_files")
def test_no_detections_at_all_are_an_ap_of_0_and_a_line(folder: Path, tmp_path: Path) -> None:
    code = FACTORY.replace("detector(name)", "silent(detector(name))")
    code += "\n\ndef silent(model):\n    model.score_thresh = 2.0\n    return model\n"
    (tmp_path / "silent.py").write_text(code)
    model = {"factory": f"{tmp_path / 'silent.py'}:build"}
    _, results = pipeline.run(experiment(folder, model=model), tmp_path / "out")
    assert results["float"]["metrics"]["AP"] == 0
    (variant,) = results["variants"]
    assert variant["agreement_with_float"] == 1
    assert variant["objects"]["lost"] is None
    assert "float: no detections at all on 4 images: AP is 0" in results["notes"]
    assert "w8a8: no detections at all on 4 images: AP is 0" in results["notes"]


def of_two_sizes(root: Path, name: str) -> dict[str, Any]:
    """Data of an image of 64 × 64 and one 40 high and 56 wide, and what a detector finds there."""
    for split in ("train", "val"):
        images = write_images(root / split, 2, 4)
        (low,) = pictures(1, (40, 56), seed=9)
        pixels = (low * 255).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(root / split / "1.png")
        rows = seen_by(detector(name), [images[0], pixels.float() / 255])
        sizes = [(64, 64), (40, 56)]
        write_coco(root / f"annotations/instances_{split}.json", rows, sizes)
    return {"root": root}


@pytest.mark.slow
def test_images_of_several_sizes_are_stretched_as_an_ssd_does(folder: Path, tmp_path: Path) -> None:
    data = of_two_sizes(tmp_path / "mixed", "ssd")
    chosen = experiment(folder, data, runtimes=["onnxruntime"])
    _, results = pipeline.run(chosen, tmp_path / "out")
    assert any("images are of 2 sizes, and files take one, 64 high" in n for n in results["notes"])
    for entry in (results["float"], *results["variants"]):
        deployed = entry["deployed"]["onnxruntime"]
        assert deployed["agreement"] > 0.95
        assert deployed["metrics"]["AP50"] == pytest.approx(entry["metrics"]["AP50"], abs=0.05)
    assert results["float"]["metrics"]["AP50"] > 0.3


@pytest.mark.slow
def test_a_padded_image_is_compared_with_its_own_simulation(folder: Path, tmp_path: Path) -> None:
    data = of_two_sizes(tmp_path / "mixed", "retinanet")
    model = {"factory": f"{folder / 'net.py'}:build", "arguments": {"name": "retinanet"}}
    chosen = experiment(folder, data, model=model, runtimes=["onnxruntime"])
    _, results = pipeline.run(chosen, tmp_path / "out")
    assert any("filled up" in note for note in results["notes"])
    deployed = results["float"]["deployed"]["onnxruntime"]
    assert deployed["agreement"] > 0.99
    assert deployed["simulated"] != results["float"]["metrics"]
    assert deployed["metrics"]["AP"] == pytest.approx(deployed["simulated"]["AP"], abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd", "fcos"])
def test_raw_files_are_measured_with_the_models_own_post_processing(
    folder: Path, tmp_path: Path, name: str
) -> None:
    model = {"factory": f"{folder / 'net.py'}:build", "arguments": {"name": name}}
    more = {"model": model, "runtimes": ["onnxruntime", "openvino"]}
    found = {}
    for post in (True, False):
        chosen = experiment(folder, export={"postprocess": post}, **more)
        out, results = pipeline.run(chosen, tmp_path / str(post))
        found[post] = results["variants"][0]["deployed"]
    session = onnxruntime.InferenceSession(str(out / "variants/w8a8/model.onnx"))
    assert {"bbox_regression", "cls_logits"} <= {o.name for o in session.get_outputs()}
    for runtime in more["runtimes"]:
        whole, raw = found[True][runtime], found[False][runtime]
        assert raw["metrics"] == pytest.approx(whole["metrics"], abs=0.005, nan_ok=True)
        assert raw["agreement"] == pytest.approx(whole["agreement"], abs=0.02)
        assert raw["latency_ms"] == raw["latency_raw_ms"]


WRAPPED = """\
import torch
from torch import nn
from torchvision.ops import batched_nms


class Cells(nn.Module):
    \"\"\"A box and three scores for each cell of a grid, and code of its own around that.\"\"\"

    def __init__(self):
        super().__init__()
        layers = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()
        self.net = nn.Sequential(*layers, nn.Conv2d(16, 7, 3, 2, 1))

    def forward(self, images):
        found = []
        for cells in self.net(torch.stack(images)):
            sides, scores = cells[:4].flatten(1).T.exp() * 8, cells[4:].flatten(1).T.sigmoid()
            y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
            at = torch.stack([x.flatten(), y.flatten()], 1) * 8.0 + 4
            boxes = torch.cat([at - sides[:, :2], at + sides[:, 2:]], 1).clamp(0, 64)
            best, labels = scores.max(1)
            kept = batched_nms(boxes, best, labels, 0.5)
            found.append({"boxes": boxes[kept], "scores": best[kept], "labels": labels[kept] + 1})
        return found


def build():
    torch.manual_seed(2)
    model = Cells().eval()
    with torch.no_grad():
        for layer in (0, 2, 4):
            nn.init.kaiming_normal_(model.net[layer].weight)
    return model
"""


@pytest.mark.slow
def test_a_detector_of_ones_own_makes_boxes_of_a_runtimes_raw_outputs(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "cells.py").write_text(WRAPPED)
    model = {"factory": f"{tmp_path / 'cells.py'}:build"}
    data = {"root": folder / "coco", "format": "coco"}
    chosen = {"model": model, "runtimes": ["onnxruntime", "openvino"]}
    with pytest.raises(SubbyteError, match=r"Cells makes boxes .*export\.postprocess: false"):
        pipeline.run(experiment(folder, data, **chosen), tmp_path / "out")
    chosen["export"] = {"postprocess": False}
    _, results = pipeline.run(experiment(folder, data, **chosen), tmp_path / "out")
    for entry in (results["float"], *results["variants"]):
        for deployed in entry["deployed"].values():
            assert deployed["images"] == 4
            assert deployed["agreement"] > 0.95
            assert deployed["metrics"]["AP"] == pytest.approx(entry["metrics"]["AP"], abs=0.02)
    counts = results["variants"][0]["deployed"]["onnxruntime"]
    assert counts["int8_ops"] == counts["int8_candidates"] == 3
    assert results["variants"][0]["agreement_with_float"] < 1


@pytest.mark.slow
def test_where_raw_outputs_make_no_boxes_ap_is_said_not_to_be_measured(
    folder: Path, tmp_path: Path
) -> None:
    model = {"factory": f"{folder / 'net.py'}:build", "arguments": {"name": "fasterrcnn"}}
    raw = {"export": {"postprocess": False}, "runtimes": ["onnxruntime"]}
    _, results = pipeline.run(experiment(folder, model=model, **raw), tmp_path / "out")
    deployed = results["variants"][0]["deployed"]["onnxruntime"]
    assert set(deployed["metrics"].values()) == {None}
    assert deployed["images"] == 0
    assert deployed["latency_ms"] > 0
    assert any("AP is not measured in the runtimes" in note for note in results["notes"])
