"""The seed's experiments by name, on a small folder in ImageNet's layout and on CIFAR-10."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.transforms._presets import ImageClassification

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

# Variant → bits of weights and activations, and of both in the first and the last layer.
BITS = {
    "w8a8": (8, 8, 8, 8),
    "w7a7": (7, 7, 7, 7),
    "w6a6": (6, 6, 6, 6),
    "w5a5": (5, 5, 5, 5),
    "w4a4": (4, 4, 4, 4),
    "w4a4-first-last-8": (4, 4, 8, 8),
    "w4a8": (4, 8, 4, 8),
}
LAPQ = {"w4a4": (4, 4), "w4a8": (4, 8)}
FILES = {"resnet18": "resnet18-f37072fd.pth", "resnet50": "resnet50-0676ba61.pth"}  # torchvision's
CLASSES = {"n01440764": 0, "n01443537": 1, "n02099601": 207, "n07747607": 950}  # published numbers
RETRIEVER = 207
SMALL = "{resize: 64, crop: 64, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
DATA = Path(os.environ.get("SUBBYTE_DATA", "")) / "cifar10"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of weights, empty and without a network behind it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def no_network(*args: Any, **options: Any) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


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


def theirs(name: str, folder: Path, size: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """torchvision's random network and, by torchvision's transforms, a folder's images in order."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name).eval()
    resize = 256 if size == 224 else size
    prepare = ImageClassification(crop_size=size, resize_size=resize)
    paths = sorted(folder.rglob("*.JPEG"))
    return module, torch.stack([prepare(Image.open(path)) for path in paths])


def rows(folder: Path, variant: str) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "variants" / variant / "layers.csv").open(newline="") as file:
        return {(row["layer"], row["role"]): row for row in csv.DictReader(file)}


def numbers(cell: str) -> np.ndarray:
    return np.array([float(part) for part in cell.split()])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("resnet18", 224), ("resnet50", 64)])
def test_by_ranges_with_published_weights(
    hub: Path, imagenet: Path, tmp_path: Path, cli: Cli, name: str, size: int
) -> None:
    module, images = theirs(name, imagenet / "val", size)
    with torch.no_grad():
        # Every image is taken for a retriever, as one in four is.
        module.fc.bias[RETRIEVER] += 3 * module(images).abs().max()
        expected = module(images).numpy()
    torch.save(module.state_dict(), hub / FILES[name])
    settings = [] if size == 224 else ["--set", f"data.preprocessing={SMALL}"]
    out = tmp_path / "out"
    command = "run", f"seeds/{name}", "--set", f"data.root={imagenet}", *settings, "--out", out
    result = cli(*command, "--quiet")
    assert result.exit_code == 0, result.stderr

    results = json.loads((out / "results.json").read_text())
    assert (results["calibration_images"], results["evaluation_images"]) == (8, 4)
    assert results["classes"] == {"model": 1000, "evaluated": 4}
    assert [entry["name"] for entry in results["variants"]] == list(BITS)
    for entry in (results["float"], *results["variants"]):
        for measured in (entry, *entry["deployed"].values()):
            assert (measured["metrics"]["top1"], measured["images"]) == (0.25, 4)
        assert set(entry["deployed"]) == {"onnxruntime", "openvino"}
    with np.load(out / "float/outputs.npz") as outputs:
        assert outputs["labels"].tolist() == list(CLASSES.values())
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4 * expected.max())

    _, calibration = theirs(name, imagenet / "train", size)
    spread = float((calibration.amax((1, 2, 3)) - calibration.amin((1, 2, 3))).mean())
    classifier = module.fc.weight.detach()
    extent = classifier.amax(1).clamp(min=0) - classifier.amin(1).clamp(max=0)
    for variant, (weights, activations, edge_weights, edge_activations) in BITS.items():
        table = rows(out, variant)
        edges, inner = ("conv1", "fc"), "layer1.0.conv2"
        asked = {(inner, "weight"): weights, (inner, "activation"): activations}
        asked |= {(layer, "weight"): edge_weights for layer in edges}
        asked |= {(layer, "activation"): edge_activations for layer in edges}
        assert {key: int(table[key]["bits"]) for key in asked} == asked
        kinds = {(r["symmetric"], r["per_channel"]) for (_, role), r in table.items()
                 if role == "weight"}  # fmt: skip
        assert kinds == {("False", "True")}
        scale = numbers(table["fc", "weight"]["scale"])
        np.testing.assert_allclose(scale, extent / (2**edge_weights - 1), rtol=1e-5)
        scale = numbers(table["conv1", "activation"]["scale"])
        np.testing.assert_allclose(scale, spread / (2**edge_activations - 1), rtol=1e-4)


@pytest.mark.slow
def test_lapq_with_published_weights(hub: Path, imagenet: Path, tmp_path: Path, cli: Cli) -> None:
    module, _ = theirs("resnet18", imagenet / "val", 64)
    torch.save(module.state_dict(), hub / FILES["resnet18"])
    settings = [
        f"data.root={imagenet}",
        f"data.preprocessing={SMALL}",
        "data.calibration_images=8",
        *(f"variants.{name}.method.max_evaluations=40" for name in LAPQ),
    ]
    chosen = [part for setting in settings for part in ("--set", setting)]
    out = tmp_path / "out"
    result = cli("run", "seeds/resnet18-lapq", *chosen, "--out", out, "--quiet")
    assert result.exit_code == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert (results["calibration_images"], results["evaluation_images"]) == (8, 4)
    assert [entry["name"] for entry in results["variants"]] == list(LAPQ)
    for entry in results["variants"]:
        assert entry["method"] == "lapq"
        assert set(entry["deployed"]) == {"onnxruntime", "openvino"}
        assert all(deployed["images"] == 4 for deployed in entry["deployed"].values())
    for variant, (weights, activations) in LAPQ.items():
        table = rows(out, variant)
        of_weights = [row for (_, role), row in table.items() if role == "weight"]
        assert len(of_weights) == 19  # 21 layers, without the first convolution and the classifier
        assert {(row["bits"], row["per_channel"]) for row in of_weights} == {
            (str(weights), "False")
        }
        assert table["layer1.0.conv2", "activation"]["bits"] == str(activations)
        assert not {("conv1", "weight"), ("conv1", "activation"), ("fc", "weight")} & set(table)


@pytest.mark.slow
@pytest.mark.skipif(
    "SUBBYTE_DATA" not in os.environ, reason="SUBBYTE_DATA, a folder of real data, is not set"
)
def test_cifar10_has_the_same_variants_on_a_real_network(tmp_path: Path, cli: Cli) -> None:
    settings = [
        f"model.checkpoint={DATA / 'resnet20-12fca82f.th'}",
        f"data.calibration={DATA / 'train'}",
        f"data.evaluation={DATA / 'test'}",
        "data.calibration_images=256",
        "data.evaluation_images=1000",
        *(f"variants.lapq-{name}.method.max_evaluations=40" for name in LAPQ),
    ]
    chosen = [part for setting in settings for part in ("--set", setting)]
    result = cli("run", "seeds/cifar10", *chosen, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    entries = {entry["name"]: entry for entry in json.loads(result.stdout)["variants"]}
    assert list(entries) == [*BITS, *(f"lapq-{name}" for name in LAPQ)]
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


def test_a_folder_that_is_not_there_is_told_before_weights_are_downloaded(
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
