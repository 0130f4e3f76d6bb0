"""torchvision's detectors by name, against torchvision's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, is_classifier, load, names

SMALL = "ssdlite320_mobilenet_v3_large"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    """torch.hub's folder of weights, empty."""
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder.parent))
    yield folder
    torch.hub.set_dir(before)


def theirs(name: str, labels: int = 91) -> nn.Module:
    torch.manual_seed(5)
    detection = torchvision.models.detection
    make = getattr(detection, name)
    return make(weights=None, weights_backbone=None, num_classes=labels).eval()


def published_name(name: str) -> str:
    url = torchvision.models.get_model_weights(name)["COCO_V1"].url
    return str(url).rsplit("/", 1)[-1]


def agree(ours: nn.Module, other: nn.Module) -> None:
    image = torch.rand(3, 100, 120)
    with torch.no_grad():
        (one,), (two,) = ours([image]), other([image])
    assert len(one["boxes"]) > 0
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)


def test_those_that_make_boxes_are_known_and_are_no_classifiers() -> None:
    known = names()["torchvision detectors"]
    assert {"ssd300_vgg16", "fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", SMALL} < set(known)
    assert not any("mask" in name or "keypoint" in name for name in known)
    for name in known:
        assert not is_classifier(ModelConfig(name=name))


def test_a_checkpoint_decides_the_number_of_labels(tmp_path: Path) -> None:
    trained = theirs(SMALL, labels=4)
    torch.save({"model": trained.state_dict()}, path := tmp_path / "mine.pth")
    spec = load(ModelConfig(name=SMALL, checkpoint=path))
    assert (spec.task, spec.classes, spec.preprocessing) == ("detection", None, None)
    agree(spec.module, trained)
    with pytest.raises(SubbyteError, match="has 4 classes with the background, but num_classes is"):
        build(SMALL, checkpoint=path, num_classes=3)


def test_weights_by_name_come_from_the_hub_folder_with_their_classes(hub: Path) -> None:
    published = theirs(SMALL)
    torch.save(published.state_dict(), hub / published_name(SMALL))
    spec = load(ModelConfig(name=SMALL, weights="COCO_V1"))
    agree(spec.module, published)
    assert spec.classes is not None
    # COCO's category numbers: 1 is person, 18 dog, 90 toothbrush, and 12 none.
    assert [spec.classes[i - 1] for i in (1, 18, 90, 12)] == ["person", "dog", "toothbrush", "N/A"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_every_kind_of_head_tells_its_labels(name: str, tmp_path: Path) -> None:
    state = theirs(name, labels=7).state_dict()
    torch.save(state, path := tmp_path / "mine.pth")
    found = build(name, checkpoint=path).state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.whole
def test_frozen_norms_of_published_weights_are_as_torchvision_has_them(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "fasterrcnn_resnet50_fpn"
    state = theirs(name).state_dict()
    for key in state:
        if key.endswith("running_var") and "layer1" in key:
            state[key] = torch.full_like(state[key], 1e-4)  # so that an epsilon would show
    kept = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(kept, hub / published_name(name))
    weights = torchvision.models.get_model_weights(name)["COCO_V1"]
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: kept)
    original = getattr(torchvision.models.detection, name)(weights=weights).eval()
    ours = load(ModelConfig(name=name, weights="COCO_V1")).module
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        expected, found = original.backbone(images), ours.get_submodule("backbone")(images)
    for key in expected:
        scale = float(expected[key].abs().max())
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=1e-4 * scale)


def test_what_does_not_exist_or_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubbyteError, match=r"unknown weights of ssdlite320.*COCO_V1"):
        build(SMALL, weights="IMAGENET1K_V1")
    with pytest.raises(SubbyteError, match="counts the background: give at least 2"):
        build(SMALL, num_classes=1)
    torch.save(theirs("ssdlite320_mobilenet_v3_large", 3).state_dict(), path := tmp_path / "a.pth")
    with pytest.raises(SubbyteError, match="does not fit the model"):
        build("fasterrcnn_mobilenet_v3_large_fpn", checkpoint=path)
