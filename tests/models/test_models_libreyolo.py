from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F

from subbyte.detectors.common.nms import clipped
from subbyte.detectors.raw import decode
from subbyte.detectors.raw.images import letterbox_of
from subbyte.detectors.raw.select import select
from subbyte.detectors.raw_outputs import raw_detector
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, ModelSpec, load, names
from subbyte.models.libreyolo_names import SIZES, named

libreyolo = pytest.importorskip("libreyolo", reason="libreyolo is not installed")

SMALL = (150, 210)  # height and width
LARGE = (810, 1030)
# How far boxes are apart at most, by sizes of images that are rounded in another way: YOLO-NAS
# makes 636 pixels of images within 640.
PIXELS = {"LibreYOLONASs": 2.0}
FEW = 200  # boxes that are compared: fewer than either side gives at most
QUICK = ("LibreYOLO9t", "LibreDFINEn")
OTHERS = [f"{kind}{sizes[0]}" for kind, sizes in SIZES.items() if f"{kind}{sizes[0]}" not in QUICK]
EVERY = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


def photograph(size: tuple[int, int]) -> Image.Image:
    """A smooth image."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
    waves = [127 + 100 * np.sin(x / 20 + i) * np.cos(y / (25 + 5 * i)) for i in range(3)]
    return Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))


def tensor_of(image: Image.Image) -> Tensor:
    return F.pil_to_tensor(image).to(torch.float32) / 255


def theirs(name: str, spec: ModelSpec) -> Any:
    """libreyolo's own wrapper around the same network."""
    kind, size = named(name)
    wrapper = getattr(libreyolo, kind)(
        None, size=size, nb_classes=1, device="cpu", _scratch_init=True
    )
    wrapper.model = spec.module.model
    return wrapper


def spread(spec: ModelSpec, batch: Tensor) -> None:
    """Statistics of batch norms as of these images, and no layer that gives only zeros."""
    random = torch.Generator().manual_seed(1)
    norms = [part for part in spec.module.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in spec.module.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.1)
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        spec.module(torch.cat([batch, batch.flip(3)]))
        for norm in norms:
            norm.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_detector_reads_images_and_gives_boxes_as_libreyolo_does(name: str) -> None:
    spec = load(ModelConfig(name=f"libreyolo/{name}", num_classes=1))
    assert spec.outputs is not None
    wrapper, image = theirs(name, spec), photograph(SMALL)
    batch, _, original, ratio = wrapper._preprocess(image)
    spread(spec, batch)
    size = (batch.shape[2], batch.shape[3])
    # Of one class, because it keeps the best class of a box alone; without suppression, because
    # some clip boxes before it and some behind.
    outputs = spec.outputs.model_copy(update={"nms": None, "score": 0.0})
    with torch.no_grad():
        decoded = decode(outputs, spec.module(batch), size)
        every = decoded[1].flatten()
        least = float(every.topk(min(FEW, len(every) - 1) + 1).values[-1])
        chosen = outputs.model_copy(update={"score": least})
        boxes, scores, labels, count = (x[0] for x in select(chosen, *decoded))
        found = wrapper._postprocess(
            wrapper._forward(batch),
            conf_thres=least,
            iou_thres=1.0,
            original_size=original,
            max_det=300,
            ratio=ratio,
            input_size=wrapper.input_size,
        )
    fitted = letterbox_of(spec.preprocessing, {SMALL})
    boxes = clipped(fitted.in_pixels(boxes[: int(count)], SMALL), SMALL)
    expected = clipped(
        torch.as_tensor(np.asarray(found["boxes"]), dtype=torch.float32).view(-1, 4), SMALL
    )
    assert len(expected) >= FEW // 4
    assert set(labels[: int(count)].tolist()) == {1}
    known = torch.as_tensor(np.asarray(found["scores"]), dtype=torch.float32)
    near = (box_iou(expected, boxes) > 0.99) | (
        torch.cdist(expected, boxes) < PIXELS.get(name, 0.3)
    )
    near &= (known[:, None] - scores[: int(count)]).abs() < 1e-4
    assert near.any(1).float().mean() > 0.98  # nearly tied scores may fall out on either side


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("name", EVERY)
def test_images_are_prepared_as_libreyolo_does(name: str, size: tuple[int, int]) -> None:
    if name == "LibreYOLONASs":
        pytest.skip("it makes 636 pixels of them within 640, which is nearly the same")
    spec = load(ModelConfig(name=f"libreyolo/{name}"))
    wrapper, image = theirs(name, spec), photograph(size)
    expected = wrapper._preprocess(image)[0]
    detector = raw_detector(spec.module, spec.outputs, spec.preprocessing)
    fitted = letterbox_of(spec.preprocessing, {size})
    found = detector.normalization(fitted.images([tensor_of(image)]))
    assert found.shape == expected.shape
    # Theirs are rounded to whole numbers of 0 to 255.
    step = (expected.max() - expected.min()) / 255
    assert (found - expected).abs().mean() < step
    assert (found - expected).abs().max() < 3 * step


def test_names_are_those_of_weights_and_what_people_write() -> None:
    known = names("libreyolo/")["libreyolo"]
    assert {"libreyolo/LibreYOLOXn", "libreyolo/LibreRTDETRr18"} <= set(known)
    assert named("libreyolo/yolox-nano") == ("LibreYOLOX", "n")
    assert named("libreyolo/YOLOv9-t") == ("LibreYOLO9", "t")
    assert named("libreyolo/rt-detr-r18") == ("LibreRTDETR", "r18")
    assert named("libreyolo/rtdetrv2-r18") == ("LibreRTDETRv2", "r18")
    assert named("libreyolo/LibreDFINEn.pt") == ("LibreDFINE", "n")
    assert len({named(name) for name in known}) == len(known)
    for kind, sizes in SIZES.items():
        assert tuple(getattr(libreyolo, kind).INPUT_SIZES) == sizes


def test_an_unknown_name_or_size_is_refused_with_the_nearest() -> None:
    with pytest.raises(SubbyteError, match="did you mean 'libreyolo/LibreYOLOXn'"):
        load(ModelConfig(name="libreyolo/LibreYOLOXnn"))
    with pytest.raises(SubbyteError, match="unknown weights of libreyolo/yolox-n 'COCO'"):
        load(ModelConfig(name="libreyolo/yolox-n", weights="COCO"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What libreyolo's training writes, of three classes."""
    torch.manual_seed(3)
    wrapper = libreyolo.LibreYOLO9(None, size="t", nb_classes=3, device="cpu", _scratch_init=True)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    torch.save(
        {
            "model": wrapper.model.state_dict(),
            "nc": 3,
            "names": {0: "RBC", 1: "WBC", 2: "Platelets"},
            "model_family": "yolo9",
            "size": "t",
            "letterbox_pad": "center",
            "imgsz_h": 64,
            "imgsz_w": 96,
        },
        path,
    )
    return path


def test_a_checkpoint_brings_classes_and_the_size_it_was_trained_with(checkpoint: Path) -> None:
    spec = load(ModelConfig(name="libreyolo/yolo9-t", checkpoint=checkpoint))
    assert spec.classes == ("RBC", "WBC", "Platelets")
    assert spec.outputs is not None
    assert spec.outputs.classes == 3
    prepared = spec.preprocessing
    assert prepared is not None
    assert (prepared.letterbox, prepared.place) == ((64, 96), "centre")
    saved = torch.load(checkpoint, weights_only=True)["model"]
    for name, value in spec.module.model.state_dict().items():
        assert torch.equal(value, saved[name])


def test_a_checkpoint_of_another_size_or_model_is_refused(checkpoint: Path) -> None:
    with pytest.raises(SubbyteError, match="of size t, and libreyolo/yolo9-s is of size s"):
        load(ModelConfig(name="libreyolo/yolo9-s", checkpoint=checkpoint))
    with pytest.raises(SubbyteError, match="does not fit the model"):
        load(ModelConfig(name="libreyolo/yolox-n", checkpoint=checkpoint))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LibreRTDETRr18", "LibreDFINEn", "LibreDEIMn", "LibreYOLO7b"])
def test_state_dicts_of_every_kind_fit_strictly(name: str, tmp_path: Path) -> None:
    kind, size = named(name)
    make = getattr(libreyolo, kind)
    wrapper = make(None, size=size, nb_classes=2, device="cpu", _scratch_init=True)
    torch.save({"model": wrapper.model.state_dict()}, tmp_path / "weights.pt")
    spec = load(ModelConfig(name=f"libreyolo/{name}", checkpoint=tmp_path / "weights.pt"))
    assert spec.outputs is not None
    assert spec.outputs.classes == 2
