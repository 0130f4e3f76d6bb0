"""A family of detectors is one file, found by being there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import subbyte
from own_heads import with_own_head
from processor import FITTING
from small_detectors import CLASSES, NAMES, detector, pictures
from subbyte import detectors
from subbyte.detectors import faster_rcnn, other, retinanet_fcos, ssd
from subbyte.detectors.base import Family, families, family_of
from subbyte.detectors.deployment import detections_of
from subbyte.detectors.letterbox import Letterbox
from subbyte.models import build
from subbyte.targets import base as targets

CELLS = """\
from torch import nn

from subbyte.detectors.base import Family
from subbyte.detectors.letterbox import Letterbox
from subbyte.detectors.common.nms import best_of
from subbyte.detectors.common.one_stage import images_of, one_stage, size_of
from subbyte.detectors.common.preprocessing import ImagePreprocessing


class CellBoxes(nn.Module):
    def forward(self, outputs):
        sides, scores = outputs["cell_sides"].flatten(2).mT, outputs["cell_scores"].flatten(1)
        return best_of(sides, scores.sigmoid(), (scores * 0 + 1).long(), 5)


def deployment(model, captured, args, postprocess):
    images = images_of(args)
    preprocessing = ImagePreprocessing((0.0,) * 3, (1.0,) * 3, size_of(images), (32, 32))
    return one_stage(preprocessing, model.network, CellBoxes() if postprocess else None, images)


FAMILY = Family(
    matches=lambda model: type(model).__name__ == "Cells",
    regions=lambda model: ("network",),
    deployment=deployment,
    boxes=lambda model, images: CellBoxes(),
    letterbox=lambda model, sizes: Letterbox((32, 32)),
    label_count=lambda model: 2,
)
"""


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, 2, 1))

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        cells = self.layers(batch)
        return {"cell_sides": cells[:, :4], "cell_scores": cells[:, 4]}


class Cells(nn.Module):
    """Four sides and a score for each cell of an image of 32 × 32; the five best are the result."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found = []
        for image in images:
            outputs = self.network(image[None])
            scores, places = outputs["cell_scores"].sigmoid().flatten().topk(5)
            boxes = outputs["cell_sides"][0].flatten(1)[:, places].T
            found.append({"boxes": boxes, "scores": scores, "labels": torch.ones(5).long()})
        return found


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """put(name, text): a file beside those of the families."""
    monkeypatch.setattr(detectors, "__path__", [*detectors.__path__, str(tmp_path)])
    names: list[str] = []

    def run(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        importlib.invalidate_caches()

    yield run
    for name in names:
        sys.modules.pop(f"subbyte.detectors.{name}", None)
        vars(detectors).pop(name, None)


def test_each_known_detector_has_its_family() -> None:
    files = {"retinanet": retinanet_fcos, "fcos": retinanet_fcos, "fasterrcnn": faster_rcnn}
    for name in NAMES:
        assert family_of(detector(name)) is files.get(name, ssd).FAMILY
    assert family_of(build("digit_scenes")) is ssd.FAMILY
    assert family_of(Cells()) is other.FAMILY


def test_labels_are_counted_with_the_background() -> None:
    assert [detectors.label_count(detector(name)) for name in NAMES] == [4] * len(NAMES)
    assert detectors.label_count(Cells()) is None


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_a_head_of_ones_own_are_those_that_it_scores(name: str) -> None:
    model = with_own_head(name)
    assert detectors.label_count(model) == CLASSES
    assert not model.training


def test_labels_that_a_head_calls_otherwise_are_unknown() -> None:
    model = with_own_head("ssd")
    model.head.outputs["scores"] = model.head.outputs.pop("cls_logits")
    model.forward = lambda images: model.head([images[0].new_zeros(1, 32, 8, 8)])
    assert detectors.label_count(model) is None


@pytest.mark.slow
def test_a_file_is_all_that_a_new_family_needs(
    put: Callable[[str, str], None], tmp_path: Path
) -> None:
    model, images = Cells().eval(), pictures(3, (32, 32))
    assert detectors.regions_of(model) is None
    put("cells", CELLS)
    assert detectors.label_count(model) == 2
    assert detectors.letterbox_for(model, [(20, 30), (32, 32)]) == Letterbox((32, 32))
    assert detectors.regions_of(model) == ("network",)
    recipe = subbyte.Recipe(method="range", ranges="minmax", **FITTING)
    quantized = subbyte.quantize(model, [images], recipe)
    assert quantized.region_names == ("network",)
    with torch.no_grad():
        expected = quantized(images)
    batch = torch.stack(images)
    make = detections_of(quantized, (batch,))
    assert make is not None
    for postprocess in (True, False):
        path = tmp_path / f"{postprocess}.onnx"
        subbyte.export(quantized, path, batch, postprocess=postprocess)
        found = targets.runtime("onnxruntime").load(path, 1).run(batch.numpy())
        boxes, scores, labels, count = found if postprocess else make(found)
        assert count.tolist() == [5] * 3
        assert labels.tolist() == [[1] * 5] * 3
        for i, own in enumerate(expected):
            np.testing.assert_allclose(scores[i], own["scores"].numpy(), atol=2e-3)
            np.testing.assert_allclose(boxes[i], own["boxes"].numpy(), atol=1e-2)


def test_the_first_that_matches_is_the_family(put: Callable[[str, str], None]) -> None:
    """What a model declares goes first, then what is known of its class, then the alphabet."""
    everything = "from subbyte.detectors.base import Family, Order\n\nFAMILY = Family(\n"
    everything += "    matches=lambda model: True, deployment=lambda *_: None, order=Order.{}\n)\n"
    before = families()
    put("zzz", everything.format("KNOWN"))
    put("zzz_too", everything.format("KNOWN"))
    put("yyy", everything.format("FALLBACK"))
    put("aaa", "FAMILY = None\n")
    zzz, zzz_too, yyy = (
        importlib.import_module(f"subbyte.detectors.{name}").FAMILY
        for name in ("zzz", "zzz_too", "yyy")
    )
    assert family_of(detector("ssd")) is ssd.FAMILY
    assert family_of(detector("fcos")) is retinanet_fcos.FAMILY
    assert family_of(Cells()) is zzz
    found: list[Family] = families()
    assert found == [*before[:-1], zzz, zzz_too, other.FAMILY, yyy]
