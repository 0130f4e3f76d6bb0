from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, load


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """torch.hub's folder of weights, empty and without a network behind it."""

    def no_network(*args: Any, **options: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "hub/checkpoints"
    folder.mkdir(parents=True)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder.parent))
    yield folder
    torch.hub.set_dir(before)


def theirs(name: str, seed: int = 5, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return torchvision.models.get_model(name, weights=None, **options).eval()


def published_name(name: str, weights: str = "IMAGENET1K_V1") -> str:
    url = torchvision.models.get_model_weights(name)[weights].url
    return str(url).rsplit("/", 1)[-1]


def agree(a: nn.Module, b: nn.Module, size: int = 64) -> None:
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(a(x), b(x))


def test_weights_by_name_come_from_the_hub_folder(hub: Path) -> None:
    model = theirs("resnet18")
    torch.save(model.state_dict(), hub / published_name("resnet18"))
    for weights in ("IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"):
        spec = load(ModelConfig(name="resnet18", weights=weights))
        assert not spec.module.training
        agree(spec.module, model)
    assert spec.classes is not None
    assert spec.classes[0] == "tench"
    assert len(spec.classes) == 1000
    assert spec.preprocessing is not None
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (256, 224)
    with pytest.raises(SubbyteError, match="have 1000 classes, not 10"):
        build("resnet18", weights="DEFAULT", num_classes=10)


def test_the_torchvision_loader_agrees(hub: Path) -> None:
    torch.save(theirs("mnasnet0_5").state_dict(), hub / published_name("mnasnet0_5"))
    expected = torchvision.models.mnasnet0_5(weights="IMAGENET1K_V1").eval()
    agree(build("mnasnet0_5", weights="IMAGENET1K_V1"), expected)


def test_missing_weights_say_where_they_belong(hub: Path) -> None:
    with pytest.raises(SubbyteError) as caught:
        build("resnet18", weights="IMAGENET1K_V1")
    message = str(caught.value)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    for part in (str(hub), url, published_name("resnet18"), "model.checkpoint"):
        assert part in message
    assert "\n" not in message


def test_a_download_that_works_is_used_and_stdout_stays_clean(
    hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = theirs("squeezenet1_1")

    def download(url: str, file: str, *args: Any, **options: Any) -> None:
        torch.save(model.state_dict(), file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    agree(build("squeezenet1_1", weights="DEFAULT"), model)
    assert capsys.readouterr().out == ""


def test_a_file_in_the_hub_folder_is_not_trusted(hub: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save(Trap(), hub / published_name("resnet18"))
    with pytest.raises(SubbyteError, match="could run code"):
        build("resnet18", weights="DEFAULT")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet18", {}, 64),
        ("squeezenet1_1", {}, 64),
        ("shufflenet_v2_x0_5", {}, 64),
        ("mobilenet_v3_small", {}, 64),
        ("mnasnet0_5", {}, 64),
        ("regnet_y_400mf", {}, 64),
        ("googlenet", {"aux_logits": False, "transform_input": True, "init_weights": False}, 64),
        ("inception_v3", {"aux_logits": False, "transform_input": True, "init_weights": False}, 96),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_decides_the_number_of_classes(
    tmp_path: Path, name: str, options: dict[str, Any], size: int, suffix: str
) -> None:
    path = tmp_path / f"mine{suffix}"
    model = theirs(name, num_classes=7, **options)
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    spec = load(ModelConfig(name=name, checkpoint=path))
    agree(spec.module, model, size)
    assert spec.classes is None
    assert spec.preprocessing is not None


def test_auxiliary_heads_in_a_file_do_no_harm(hub: Path) -> None:
    model = theirs("googlenet", aux_logits=True, transform_input=True, init_weights=False)
    torch.save(model.state_dict(), hub / published_name("googlenet"))
    ours = build("googlenet", weights="DEFAULT")
    agree(ours, model)
    assert not [name for name, _ in ours.named_modules() if name.startswith("aux")]


def test_names_in_old_densenet_files_load(hub: Path) -> None:
    model = theirs("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, hub / published_name("densenet121"))
    agree(build("densenet121", weights="DEFAULT"), model)


@pytest.mark.slow
def test_a_vision_transformer_takes_the_image_size_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    model = theirs("vit_b_32", image_size=64, num_classes=3)
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in model.state_dict().items()
    }
    torch.save(old, path)
    spec = load(ModelConfig(name="vit_b_32", checkpoint=path))
    agree(spec.module, model, size=64)
    assert spec.preprocessing is not None
    assert (spec.preprocessing.resize, spec.preprocessing.crop) == (64, 64)


def test_a_published_file_is_known_by_its_name(tmp_path: Path) -> None:
    state = theirs("mobilenet_v2").state_dict()
    for weights, resize in (("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232)):
        path = tmp_path / published_name("mobilenet_v2", weights)
        torch.save(state, path)
        spec = load(ModelConfig(name="mobilenet_v2", checkpoint=path))
        assert spec.preprocessing is not None
        assert spec.preprocessing.resize == resize
        assert spec.classes is not None
    torch.save(state, tmp_path / "other.pth")
    spec = load(ModelConfig(name="mobilenet_v2", checkpoint=tmp_path / "other.pth"))
    assert spec.preprocessing is not None
    assert spec.preprocessing.resize == 232


def test_the_published_mobilenet_loads() -> None:
    root = os.environ.get("SUBBYTE_DATA")
    if not root:
        pytest.skip("SUBBYTE_DATA is not set: no published MobileNetV2 weights")
    path = Path(root) / "imagenet" / "mobilenet_v2-b0353104.pth"
    spec = load(ModelConfig(name="mobilenet_v2", checkpoint=path))
    assert spec.classes is not None
    with torch.no_grad():
        assert spec.module(torch.rand(2, 3, 224, 224)).isfinite().all()


def test_another_architecture_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(theirs("squeezenet1_1").state_dict(), path)
    with pytest.raises(SubbyteError, match=r"it lacks conv1\.weight") as caught:
        build("resnet18", checkpoint=path)
    assert "\n" not in str(caught.value)


def test_random_weights_are_the_same_every_time_and_nothing_more() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = load(ModelConfig(name="squeezenet1_1", num_classes=4))
    assert torch.equal(torch.rand(1), expected)
    agree(first.module, build("squeezenet1_1", num_classes=4))
    assert first.classes is None
    assert not first.module.training
