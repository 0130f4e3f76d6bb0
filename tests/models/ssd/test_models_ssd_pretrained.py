from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from ssd_reference import random_state
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.models import build
from subbyte.models.ssd import SSD
from subbyte.models.ssd.pretrained import load_backbone, load_start


def _ssd(name: str, classes: int) -> SSD:
    model = build(name, num_classes=classes)
    assert isinstance(model, SSD)
    return model


def _file(classifier: nn.Module, path: Path) -> Path:
    torch.save(random_state(classifier.state_dict()), path)
    classifier.load_state_dict(torch.load(path))
    classifier.eval()
    return path


def test_a_mobilenet_of_torchvision_becomes_the_backbone(tmp_path: Path) -> None:
    classifier = torchvision.models.mobilenet_v2(weights=None)
    model = _ssd("mb2_ssd_lite", 5)
    load_backbone(model, "mb2_ssd_lite", _file(classifier, tmp_path / "m.pth"))
    batch = torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        expected = classifier.features(batch)
        torch.testing.assert_close(model.network.features(batch)[1], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_resnet_and_a_vgg_of_torchvision_do_as_well(tmp_path: Path) -> None:
    resnet = torchvision.models.resnet18(weights=None)
    model = _ssd("nvidia_ssd300_resnet18", 3)
    load_backbone(model, "nvidia_ssd300_resnet18", _file(resnet, tmp_path / "r.pth"))
    own = model.network.state_dict()
    key = "feature_extractor.feature_extractor.6.1.conv2.weight"
    assert torch.equal(own[key], resnet.layer3[1].conv2.weight)
    # Without its fully connected layers, which only take space.
    vgg = torchvision.models.vgg16(weights=None).features
    model = _ssd("vgg16_ssd", 3)
    before = model.network.state_dict()["base_net.31.weight"].clone()
    load_backbone(model, "vgg16_ssd", _file(vgg, tmp_path / "v.pth"))
    own = model.network.state_dict()
    assert torch.equal(own["base_net.28.bias"], vgg[28].bias)
    assert torch.equal(own["base_net.31.weight"], before)


def test_another_classifier_is_reported(tmp_path: Path) -> None:
    file = _file(torchvision.models.resnet18(weights=None), tmp_path / "r.pth")
    with pytest.raises(
        SubbyteError, match=r"no.* of a classifier with mb2_ssd_lite's backbone: its"
    ):
        load_backbone(_ssd("mb2_ssd_lite", 3), "mb2_ssd_lite", file)


def _start(classes: list[str], folder: Path) -> dict[str, torch.Tensor]:
    state = random_state(_ssd("sq_ssd_lite", len(classes) + 1).network.state_dict())
    facts = {"subbyte": f'{{"classes": {classes}}}'.replace("'", '"')}
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "model.safetensors", facts)
    return state


def test_an_ssd_of_the_same_classes_is_taken_whole(tmp_path: Path) -> None:
    state = _start(["a", "b"], tmp_path / "run")
    model = _ssd("sq_ssd_lite", 3)
    load_start(model, "sq_ssd_lite", tmp_path / "run", ("a", "b"))
    own = model.network.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)
    with pytest.raises(SubbyteError, match=r"another order \('a' where the data has 'b'\).*a, b$"):
        load_start(model, "sq_ssd_lite", tmp_path / "run", ("b", "a"))


@pytest.mark.parametrize("classes", [("a", "c"), ("a", "b", "c")])
def test_of_other_classes_the_heads_are_left_out(classes: tuple[str, ...], tmp_path: Path) -> None:
    state = _start(["a", "b"], tmp_path / "run")
    model = _ssd("sq_ssd_lite", len(classes) + 1)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    load_start(model, "sq_ssd_lite", tmp_path / "run", classes)
    for key, value in model.network.state_dict().items():
        source = before if key.startswith("classification_headers.") else state
        assert torch.equal(value, source[key])
