from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou
from torchvision.transforms.functional import to_tensor

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import tiny_transformers as tiny  # noqa: E402
from subbyte.data.transform import transform  # noqa: E402
from subbyte.detectors.raw_outputs import raw_detector  # noqa: E402
from subbyte.errors import SubbyteError  # noqa: E402
from subbyte.models import ModelConfig, ModelSpec, is_classifier, load, names  # noqa: E402
from subbyte.models.processor import of_classifier  # noqa: E402

SQUARE = {"height": 32, "width": 32}
SIDE = {"height": tiny.SIDE, "width": tiny.SIDE}
SHORT = {"shortest_edge": 48, "longest_edge": 64}
CLASSIFIERS: dict[str, Any] = {
    "vit": lambda: transformers.ViTImageProcessor(size=SQUARE),
    "swin": lambda: transformers.ViTImageProcessor(size=SQUARE, resample=3),
    "resnet": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 64}),
    "convnext": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
    "mobilevit": lambda: transformers.MobileViTImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    ),
}
DETECTORS: dict[str, Any] = {
    "detr": lambda: transformers.DetrImageProcessor(size=SHORT),
    "yolos": lambda: transformers.YolosImageProcessor(size=SHORT),
    "rt_detr": lambda: transformers.RTDetrImageProcessor(size=SIDE),
    "d_fine": lambda: transformers.RTDetrImageProcessor(size=SIDE),
}


def named(folder: Path) -> ModelConfig:
    return ModelConfig(name=f"transformers/{folder}")


def photograph(height: int = 90, width: int = 120) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [127 + 100 * np.sin(x / 20 + i) * np.cos(y / (25 + 5 * i)) for i in range(3)]
    return Image.fromarray(np.stack(waves, -1).clip(0, 255).astype(np.uint8))


def made(tmp_path: Path, kind: str) -> tuple[ModelSpec, Any, Any]:
    """A model as Subbyte loads it, as transformers does, and its processor."""
    processor = {**CLASSIFIERS, **DETECTORS}[kind]()
    folder = tiny.written(tmp_path / kind, getattr(tiny, kind), processor)
    auto = "AutoModelForImageClassification"
    if kind in DETECTORS:
        auto = "AutoModelForObjectDetection"
    theirs = getattr(transformers, auto).from_pretrained(folder).eval()
    return load(named(folder)), theirs, transformers.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_reads_images_and_gives_logits_as_transformers_does(
    tmp_path: Path, kind: str
) -> None:
    spec, theirs, processor = made(tmp_path, kind)
    assert (spec.task, spec.classes, spec.notes) == ("classification", tiny.LABELS, ())
    assert spec.preprocessing is not None
    image = photograph()
    with torch.no_grad():
        expected = theirs(**processor(images=image, return_tensors="pt")).logits
        found = spec.module(transform(spec.preprocessing)(image)[None])
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("method", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_the_way_to_resize_is_the_processors(method: Image.Resampling) -> None:
    processor = transformers.ViTImageProcessor(size=SQUARE, resample=method)
    assert of_classifier(processor).interpolation == method.name.lower()


@pytest.mark.slow
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_gives_boxes_as_its_processor_makes_them(tmp_path: Path, kind: str) -> None:
    spec, theirs, processor = made(tmp_path, kind)
    assert (spec.task, spec.classes, spec.notes) == ("detection", tiny.LABELS, ())
    detector = raw_detector(spec.module, spec.outputs, spec.preprocessing).eval()
    image = photograph()  # 4 : 3, so that nothing of the letterbox is filled
    pixels = to_tensor(image)
    with torch.no_grad():
        mine = detector([pixels])[0]
        batch = detector.normalization(_fitted(detector, pixels))
        raw = theirs(pixel_values=batch)
    scale = _scale(detector, image)
    found = processor.post_process_object_detection(raw, threshold=0.001, target_sizes=[scale])[0]
    near = box_iou(_clipped(found["boxes"]), mine["boxes"]) > 0.99
    near &= (found["scores"][:, None] - mine["scores"]).abs() < 1e-4
    near &= found["labels"][:, None] + 1 == mine["labels"]
    inside = (_clipped(found["boxes"])[:, 2:] > _clipped(found["boxes"])[:, :2] + 0.5).all(1)
    assert int(inside.sum()) > 3
    assert near.any(1)[inside].float().mean() > 0.98


def _fitted(detector: Any, pixels: torch.Tensor) -> torch.Tensor:
    from subbyte.detectors.raw.images import letterbox_of

    letterbox = letterbox_of(detector.preprocessing, {(90, 120)})
    fitted: torch.Tensor = letterbox.images([pixels])
    return fitted


def _scale(detector: Any, image: Image.Image) -> tuple[float, float]:
    """Height and width in the image's pixels of what boxes are shares of."""
    if detector.preprocessing.letterbox is None:
        return image.height, image.width
    return max(image.size), max(image.size)  # a square, of whose side the longer one is


def _clipped(boxes: torch.Tensor) -> torch.Tensor:
    limit = torch.tensor([120.0, 90.0, 120.0, 90.0])
    return torch.minimum(boxes.clamp(min=0), limit)


def test_a_letterbox_gives_photographs_the_size_that_the_processor_does(tmp_path: Path) -> None:
    processor = transformers.DetrImageProcessor()  # 800 and 1333
    spec = load(named(tiny.written(tmp_path, tiny.detr, processor)))
    assert spec.preprocessing is not None
    assert (spec.preprocessing.letterbox, spec.preprocessing.place) == (1066, "corner")
    theirs = processor(images=photograph(480, 640), return_tensors="pt")["pixel_values"]
    assert theirs.shape[2:] == (800, 1066)
    mean = torch.tensor(spec.preprocessing.fills) / 255
    torch.testing.assert_close(mean, torch.tensor(spec.preprocessing.mean))  # 0 when normalized


def test_what_no_preprocessing_does_is_said(tmp_path: Path) -> None:
    processor = transformers.DonutImageProcessor(size={"height": 40, "width": 20})
    spec = load(named(tiny.written(tmp_path, tiny.vit, processor)))
    assert "DonutImageProcessor prepares images as no preprocessing here does" in spec.notes[0]
    assert spec.notes[0].endswith("if that is wrong, give data.preprocessing")


def test_without_a_processor_it_is_said_too(tmp_path: Path) -> None:
    spec = load(named(tiny.written(tmp_path, tiny.vit)))
    assert spec.preprocessing is None
    assert "no preprocessor_config.json" in spec.notes[0]


def test_labels_without_names_are_no_classes(tmp_path: Path) -> None:
    def unnamed() -> Any:
        model = tiny.vit()
        model.config.id2label = {i: f"LABEL_{i}" for i in range(3)}
        return model

    assert load(named(tiny.written(tmp_path, unnamed))).classes is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.written(tmp_path / "vit", tiny.vit, CLASSIFIERS["vit"]())


def test_what_is_wrong_with_a_folder_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SubbyteError, match=r"has no config\.json: name a folder"):
        load(named(tmp_path / "empty"))
    with pytest.raises(SubbyteError, match="neither a folder nor in Hugging Face's cache"):
        load(ModelConfig(name="transformers/nobody/nothing"))
    with pytest.raises(SubbyteError, match=r"hf download nobody/nothing"):
        load(ModelConfig(name="transformers/nobody/nothing"))
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.unlink()
    with pytest.raises(SubbyteError, match=r"and no weights: put model\.safetensors there"):
        load(named(folder))
    weights.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(SubbyteError, match="could not be loaded from"):
        load(named(folder))
    weights.write_bytes(kept)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "num_hidden_layers": 3}))
    with pytest.raises(SubbyteError, match="are missing or of another shape"):
        load(named(folder))
    (folder / "config.json").write_text(json.dumps({**written, "architectures": ["ViTModel"]}))
    with pytest.raises(SubbyteError, match="is ViTModel: give an image classifier"):
        load(named(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(SubbyteError, match="cannot be read as JSON"):
        load(named(folder))


def test_weights_by_name_and_a_number_of_classes_are_refused(folder: Path) -> None:
    for given in ({"weights": "DEFAULT"}, {"num_classes": 4}):
        with pytest.raises(ValueError, match="has its weights and classes in its folder"):
            ModelConfig(name=f"transformers/{folder}", **given)


def test_a_checkpoint_takes_the_place_of_the_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = tiny.vit()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    config = ModelConfig(name=f"transformers/{folder}", checkpoint=tmp_path / "other.pt")
    found = load(config).module.state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(found[f"model.{name}"], value)


def test_the_cache_is_listed_and_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--someone--vit-tiny"
    shutil.copytree(folder, repository / "snapshots/0123")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    assert names("transformers/") == {"transformers": ["transformers/someone/vit-tiny"]}
    config = ModelConfig(name="transformers/someone/vit-tiny")
    assert is_classifier(config)
    assert load(config).classes == tiny.LABELS
    with pytest.raises(SubbyteError, match="in the cache are transformers/someone/vit-tiny"):
        load(ModelConfig(name="transformers/someone/vit"))
