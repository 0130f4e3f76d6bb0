"""The seed's experiments by name, on a small folder in ImageNet's layout and on CIFAR-10."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms._presets import ImageClassification

from subbyte.app.experiment import load
from subbyte.models import build
from subbyte.recipe import Recipe

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

# Variant → what differs between the seed's recipes by ranges, as docs/contract.md lists them.
BY_RANGES: dict[str, dict[str, Any]] = {
    "w8a8": {"weights": 8, "activations": 8},
    "w7a7": {"weights": 7, "activations": 7},
    "w6a6": {"weights": 6, "activations": 6},
    "w5a5": {"weights": 5, "activations": 5},
    "w4a4": {"weights": 4, "activations": 4},
    "w4a4-first-last-8": {"weights": 4, "activations": 4, "first_last": 8},
    "w4a8": {"weights": 4, "activations": 8},
}
BY_LAPQ = {
    "w4a4": {"weights": 4, "activations": 4},
    "w4a8": {"weights": 4, "activations": 8},
}
FILES = {"resnet18": "resnet18-f37072fd.pth", "resnet50": "resnet50-0676ba61.pth"}  # torchvision's
CLASSES = {"n01440764": 0, "n01443537": 1, "n02099601": 207, "n07747607": 950}  # published numbers
RETRIEVER = 207
DATA = Path(os.environ.get("SUBBYTE_DATA", "")) / "cifar10"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """torch.hub's folder of weights, empty and without a network behind it."""

    def no_network(*args: Any, **options: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(folder.parent))
    yield folder
    torch.hub.set_dir(before)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """ImageNet's layout: four of its classes, two images each in train and one in val."""
    random = np.random.default_rng(0)
    for split, number in (("train", 2), ("val", 1)):
        for name in CLASSES:
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
                coarse.resize((320, 256)).save(folder / f"ILSVRC2012_{split}_{i:08}.JPEG")
    return tmp_path / "imagenet"


def by_ranges(**fields: Any) -> Recipe:
    """The recipe of the seed's runs without a method: `avg` ranges, all layers alike."""
    alike = {"symmetric_weights": False, "per_channel": True, "first_last": None}
    return Recipe(**{**alike, "ranges": "avg", "method": "range", **fields})


def by_lapq(last: str, method: dict[str, Any], **fields: Any) -> Recipe:
    """The recipe of the seed's runs by LAPQ: per tensor, with both ends of the network in float."""
    in_float = {"weights": None, "activations": None}
    return Recipe(
        per_channel=False,
        method={"name": "lapq", "start": "laplace", "max_evaluations": 1680, **method},
        overrides={"conv1": in_float, last: in_float},
        **fields,
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_recipes_by_ranges_are_those_of_the_contract(name: str) -> None:
    chosen = load(f"seeds/{name}", ["data.root=pictures"])
    assert (chosen.model.name, chosen.model.weights) == (name, "IMAGENET1K_V1")
    assert chosen.data.calibration_images == 512
    assert chosen.runtimes == ("onnxruntime", "openvino")
    assert chosen.variants == {key: by_ranges(**fields) for key, fields in BY_RANGES.items()}


def test_the_recipes_by_lapq_are_those_of_the_contract() -> None:
    chosen = load("seeds/resnet18-lapq", ["data.root=pictures"])
    assert (chosen.model.name, chosen.model.weights) == ("resnet18", "IMAGENET1K_V1")
    assert chosen.data.calibration_images == 194
    assert chosen.variants == {key: by_lapq("fc", {}, **bits) for key, bits in BY_LAPQ.items()}


def test_cifar10_has_the_same_recipes() -> None:
    chosen = load("seeds/cifar10", ["data.calibration=train", "data.evaluation=test"])
    assert chosen.model.name == "cifar_resnet20"
    assert chosen.model.checkpoint is not None
    assert chosen.model.checkpoint.name == "resnet20-12fca82f.th"
    lapq = {f"lapq-{key}": by_lapq("linear", {"images": 194}, **b) for key, b in BY_LAPQ.items()}
    assert chosen.variants == {key: by_ranges(**b) for key, b in BY_RANGES.items()} | lapq
    assert list(chosen.variants) == [*BY_RANGES, *lapq]


@pytest.mark.parametrize(
    ("experiment", "model"),
    [("resnet18-lapq", "resnet18"), ("cifar10", "cifar_resnet20")],
)
def test_what_stays_in_float_is_in_the_model(experiment: str, model: str) -> None:
    chosen = load(f"seeds/{experiment}", ["data.calibration=train", "data.evaluation=test"])
    layers = [
        name
        for name, module in build(model).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    by_lapq = [recipe for recipe in chosen.variants.values() if recipe.overrides]
    assert len(by_lapq) == 2
    for recipe in by_lapq:
        kept = [name for name in layers if any(re.fullmatch(p, name) for p in recipe.overrides)]
        assert kept == [layers[0], layers[-1]]


def theirs(folder: Path) -> tuple[torch.nn.Module, torch.Tensor]:
    """torchvision's random ResNet-18 and, by its own transforms, a folder's images in order."""
    torch.manual_seed(0)
    module = torchvision.models.resnet18().eval()
    prepare = ImageClassification(crop_size=224)
    paths = sorted(folder.rglob("*.JPEG"))
    return module, torch.stack([prepare(Image.open(path)) for path in paths])


def numbers(cell: str) -> np.ndarray:
    return np.array([float(part) for part in cell.split()])


@pytest.mark.slow
def test_a_run_with_published_weights(hub: Path, imagenet: Path, tmp_path: Path, cli: Cli) -> None:
    module, images = theirs(imagenet / "val")
    with torch.no_grad():
        # Every image is taken for a retriever, as one in four is.
        module.fc.bias[RETRIEVER] += 3 * module(images).abs().max()
        expected = module(images).numpy()
    torch.save(module.state_dict(), hub / FILES["resnet18"])
    out, variant = tmp_path / "out", "w4a4-first-last-8"
    command = "run", "seeds/resnet18", "--set", f"data.root={imagenet}", "--only", variant
    result = cli(*command, "--set", "runtimes=[]", "--out", out, "--quiet")
    assert result.exit_code == 0, result.stderr

    results = json.loads((out / "results.json").read_text())
    assert (results["calibration_images"], results["evaluation_images"]) == (8, 4)
    assert results["classes"] == {"model": 1000, "evaluated": 4}
    for entry in (results["float"], *results["variants"]):
        assert (entry["metrics"]["top1"], entry["images"]) == (0.25, 4)
    with np.load(out / "float/outputs.npz") as outputs:
        assert outputs["labels"].tolist() == list(CLASSES.values())
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4 * expected.max())

    with (out / "variants" / variant / "layers.csv").open(newline="") as file:
        table = {(row["layer"], row["role"]): row for row in csv.DictReader(file)}
    bits = {("conv1", role): 8 for role in ("weight", "activation")}
    bits |= {("fc", role): 8 for role in ("weight", "activation")}
    bits |= {("layer1.0.conv2", role): 4 for role in ("weight", "activation")}
    assert {key: int(table[key]["bits"]) for key in bits} == bits
    weights = [row for (_, role), row in table.items() if role == "weight"]
    assert {(row["symmetric"], row["per_channel"]) for row in weights} == {("False", "True")}
    # By `avg`: a weight's own extent, and the mean extent of the images.
    classifier = module.fc.weight.detach()
    extent = classifier.amax(1).clamp(min=0) - classifier.amin(1).clamp(max=0)
    np.testing.assert_allclose(numbers(table["fc", "weight"]["scale"]), extent / 255, rtol=1e-5)
    _, calibration = theirs(imagenet / "train")
    spread = float((calibration.amax((1, 2, 3)) - calibration.amin((1, 2, 3))).mean())
    scale = numbers(table["conv1", "activation"]["scale"])
    np.testing.assert_allclose(scale, spread / 255, rtol=1e-4)


@pytest.mark.whole
@pytest.mark.skipif(
    "SUBBYTE_DATA" not in os.environ, reason="SUBBYTE_DATA, a folder of real data, is not set"
)
def test_cifar10_on_its_own_images(tmp_path: Path, cli: Cli) -> None:
    settings = [
        f"model.checkpoint={DATA / 'resnet20-12fca82f.th'}",
        f"data.calibration={DATA / 'train'}",
        f"data.evaluation={DATA / 'test'}",
        "data.calibration_images=256",
        "data.evaluation_images=1000",
        *(f"variants.lapq-{name}.method.max_evaluations=40" for name in BY_LAPQ),
    ]
    chosen = [part for setting in settings for part in ("--set", setting)]
    result = cli("run", "seeds/cifar10", *chosen, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)["variants"]}
    top1 = {name: entry["metrics"]["top1"] for name, entry in entries.items()}
    assert entries["w8a8"]["agreement_with_float"] > 0.95
    assert 0.5 < top1["w4a4"] < top1["w4a4-first-last-8"] < top1["w4a8"]
    for name, entry in entries.items():
        for deployed in entry["deployed"].values():
            assert deployed["agreement"] > 0.95, name


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18-lapq", "cifar10"])
def test_without_images_the_run_says_how_to_give_them(refusal: Refusal, name: str) -> None:
    message = refusal("run", f"seeds/{name}")
    assert message.startswith(f"seeds/{name} runs on images of yours: give --set data.root=DIR")


def test_a_folder_that_is_not_there_is_reported_before_weights_are_downloaded(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subbyte.models.load", lambda config: pytest.fail("weights were loaded"))
    message = refusal("run", "seeds/resnet18", "--set", "data.root=gone")
    assert "data.root gone does not exist" in message


def test_weights_that_cannot_be_had_are_named(hub: Path, imagenet: Path, refusal: Refusal) -> None:
    root = "--set", f"data.root={imagenet}"
    message = refusal("run", "seeds/resnet18", *root)
    assert f"put https://download.pytorch.org/models/{FILES['resnet18']} into {hub}" in message
    # A file of one's own takes their place.
    message = refusal("run", "seeds/resnet18", *root, "--set", "model.checkpoint=own.pth")
    assert "checkpoint 'own.pth' does not exist" in message
    both = "--set", "model.checkpoint=own.pth", "--set", "model.weights=DEFAULT"
    assert "exclude each other" in refusal("run", "seeds/resnet18", *root, *both)


def test_cifar10_names_its_published_weights(own: Own, refusal: Refusal) -> None:
    message = refusal("run", "seeds/cifar10", "--set", "data.root=pictures")
    assert "checkpoint 'resnet20-12fca82f.th' does not exist" in message
