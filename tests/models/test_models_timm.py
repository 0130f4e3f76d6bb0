from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn
from typer.testing import CliRunner

from subbyte.app.cli import app
from subbyte.data.transform import transform
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, load, names
from subbyte.models import timm as ours

timm = pytest.importorskip("timm", reason="timm is not installed")

TINY, TAG = "test_resnet", "r160_in1k"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the Hugging Face hub keeps its files, empty and without a network behind it."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def theirs(name: str = TINY, **options: Any) -> nn.Module:
    torch.manual_seed(5)
    module: nn.Module = timm.create_model(name, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
    return module.eval()


def agree(a: nn.Module, b: nn.Module, size: int = 64) -> None:
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(a(x), b(x))


def cache(hub: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    """Put a file where the hub would have after a download."""
    repository = hub / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    safetensors.torch.save_file(state, snapshot / "model.safetensors")


def refusal(**config: Any) -> str:
    with pytest.raises(SubbyteError) as caught:
        load(ModelConfig(**config))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_are_timms_behind_a_prefix() -> None:
    assert names()["timm"] == [f"timm/{name}" for name in timm.list_models()]
    assert names("timm/resnet18") == {"timm": ["timm/resnet18", "timm/resnet18d"]}
    assert "timm" not in names("resnet")
    with pytest.raises(SubbyteError, match="unknown model 'timm/resnett'"):
        names("timm/resnett")


def test_the_command_counts_timms_models_and_lists_them_when_asked() -> None:
    everything = CliRunner().invoke(app, ["models"]).stdout
    assert f"any of timm's {len(timm.list_models())} models" in everything
    assert "torchvision: alexnet, " in everything
    assert CliRunner().invoke(app, ["models", "timm/dla34"]).stdout == "timm: timm/dla34\n"


def test_random_weights_are_the_same_every_time() -> None:
    spec = load(ModelConfig(name=f"timm/{TINY}", num_classes=7))
    agree(spec.module, build(f"timm/{TINY}", num_classes=7))
    assert not spec.module.training
    assert spec.module(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    assert (spec.name, spec.classes) == (f"timm/{TINY}", None)
    expected = timm.create_model(TINY, num_classes=7).state_dict()
    assert spec.module.state_dict().keys() == expected.keys()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "lcnet_035", "deit_tiny_distilled_patch16_224"])
def test_a_checkpoint_decides_the_number_of_classes(tmp_path: Path, name: str, suffix: str) -> None:
    model, path = theirs(name, num_classes=7), tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    spec = load(ModelConfig(name=f"timm/{name}", checkpoint=path))
    agree(spec.module, model, size=224)
    assert spec.classes is None


def test_names_of_other_projects_in_a_file_are_translated_as_timm_does(tmp_path: Path) -> None:
    model, path = theirs("test_vit"), tmp_path / "open_clip.safetensors"
    state = {f"visual.trunk.{name}": value for name, value in model.state_dict().items()}
    state["visual.other"] = torch.zeros(3)
    safetensors.torch.save_file(state, path)
    agree(build("timm/test_vit", checkpoint=path), model, size=160)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(theirs().state_dict(), path)
    assert "does not fit the model: it lacks" in refusal(name="timm/test_vit", checkpoint=path)


@pytest.mark.parametrize(
    "config",
    [
        {"name": f"timm/{TINY}", "weights": TAG},
        {"name": f"timm/{TINY}", "weights": "DEFAULT"},
        {"name": f"timm/{TINY}.{TAG}"},
    ],
)
def test_weights_by_tag_come_from_the_hubs_folder(hub: Path, config: dict[str, str]) -> None:
    model = theirs()
    cache(hub, f"{TINY}.{TAG}", model.state_dict())
    spec = load(ModelConfig(**config))
    agree(spec.module, model)
    assert spec.name == f"timm/{TINY}"
    assert spec.classes is not None
    assert len(spec.classes) == 1000
    assert spec.classes[0].startswith("tench")


def test_a_tag_in_a_name_is_the_weights_that_an_experiment_notes() -> None:
    assert ModelConfig(name="timm/resnet18d.ra2_in1k").weights == "ra2_in1k"
    again = ModelConfig(**ModelConfig(name="timm/resnet18d.ra2_in1k").model_dump())
    assert again.weights == "ra2_in1k"
    with pytest.raises(ValidationError, match="names weights already"):
        ModelConfig(name="timm/resnet18d.ra2_in1k", weights="other")


def test_a_tag_beside_a_checkpoint_gives_the_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(theirs("resnet18").state_dict(), path)
    crops = {}
    for tag in ("a1_in1k", "tv_in1k"):
        spec = load(ModelConfig(name=f"timm/resnet18.{tag}", checkpoint=path))
        assert spec.preprocessing is not None
        crops[tag] = (spec.preprocessing.resize, spec.preprocessing.interpolation)
    assert crops == {"a1_in1k": (235, "bicubic"), "tv_in1k": (256, "bilinear")}


def test_missing_weights_say_where_to_get_them(hub: Path) -> None:
    said = refusal(name="timm/resnet18d.ra2_in1k")
    for part in ("model.safetensors", "huggingface.co/timm/resnet18d.ra2_in1k", "model.checkpoint"):
        assert part in said


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "timm/resnet18dd"}, "did you mean 'timm/resnet18d'?"),
        ({"name": "resnet18d"}, "timm has one, so write timm/resnet18d"),
        ({"name": "timm/resnet18d", "weights": "ra2_1k"}, "did you mean 'ra2_in1k'?"),
        ({"name": "timm/resnet18d.ra3"}, "known: DEFAULT, ra2_in1k"),
        (
            {"name": "timm/resnet18d", "weights": "DEFAULT", "num_classes": 10},
            "have 1000 classes, not 10",
        ),
        (
            {"name": "timm/vit_small_patch14_dinov2", "weights": "DEFAULT"},
            "features and no classes",
        ),
        ({"name": "timm/resnet61q_x"}, "unknown model"),
    ],
)
def test_what_timm_does_not_have_is_refused(config: dict[str, Any], says: str) -> None:
    assert says in refusal(**config)


def test_without_timm_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'subbyte[timm]'" in refusal(name="timm/resnet18d")
    assert "unknown model 'resnet18d': did you mean 'resnet18'?" in refusal(name="resnet18d")
    assert names()["timm"] == []
    with pytest.raises(SubbyteError, match="is not installed"):
        names("timm/")
    listed = CliRunner().invoke(app, ["models"])
    assert "timm: timm/NAME, where timm is installed: pip install" in listed.stdout


def configurations() -> dict[tuple[Any, ...], str]:
    """Each way in which timm prepares images of up to 448 pixels, and weights that need it."""
    found = {}
    for name in timm.list_pretrained():
        data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        keys = ("input_size", "crop_pct", "crop_mode", "interpolation")
        if max(data["input_size"]) <= 448 and data["crop_mode"] != "border":
            found[tuple(data[key] for key in keys)] = name
    return found


@pytest.mark.slow
def test_images_are_prepared_as_timm_prepares_them() -> None:
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for height, width in ((211, 97), (160, 333))
    ]
    cases = configurations()
    assert {mode for _, _, mode, _ in cases} == {"center", "squash"}
    assert max(share for _, share, _, _ in cases) > 1
    for name in cases.values():
        model = SimpleNamespace(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        data = timm.data.resolve_model_data_config(model)
        expected = timm.data.create_transform(**data, is_training=False)
        prepare = transform(ours._preprocessing(timm, model, name))
        for image in images:
            torch.testing.assert_close(prepare(image), expected(image), rtol=0, atol=1e-6)


def test_sides_of_different_lengths() -> None:
    model = SimpleNamespace(
        pretrained_cfg=timm.get_pretrained_cfg("vit_base_patch16_sapiens2.fb").to_dict()
    )
    data = timm.data.resolve_model_data_config(model) | {"input_size": (3, 96, 64)}
    model.pretrained_cfg |= {"input_size": (3, 96, 64), "crop_pct": 0.9}
    data["crop_pct"] = 0.9
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))
    expected = timm.data.create_transform(**data, is_training=False)(image)
    ready = transform(ours._preprocessing(timm, model, "x"))(image)
    torch.testing.assert_close(ready, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"crop_mode": "border"}, {"input_size": (3, 96, 64), "crop_mode": "center"}]
)
def test_images_that_are_padded_are_refused(change: dict[str, Any]) -> None:
    model = SimpleNamespace(pretrained_cfg=timm.get_pretrained_cfg(TINY).to_dict() | change)
    with pytest.raises(SubbyteError, match=r"timm/x .* model\.factory"):
        ours._preprocessing(timm, model, "timm/x")
