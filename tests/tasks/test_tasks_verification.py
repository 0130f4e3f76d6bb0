"""`subbyte.evaluate`, `subbyte.verify` and what `subbyte.export` says of images and classes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import raw_networks
import small_detectors
import subbyte
from subbyte.app.cli import app

RUNTIMES = ("onnxruntime", "openvino")
CLASSES = ["dark", "mid", "bright"]
PREPROCESSING = {"resize": 12, "crop": 8, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
W4 = subbyte.Recipe(weights=4, method="range")


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.stem(x)).mean((2, 3)))


class Two(nn.Module):
    """Two arguments, two outputs of other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.stem(a - b))
        return {"map": self.more(x), "mean": x.mean((2, 3))}


@dataclass(frozen=True)
class Exported:
    """A model, quantized, and its file."""

    model: nn.Module
    quantized: Any
    path: Path
    batches: list[Any]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    model = Classifier().eval()
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 3, (8,))) for _ in range(3)]
    quantized = subbyte.quantize(model, batches, W4)
    path = tmp_path_factory.mktemp("classifier") / "net.onnx"
    named = {"classes": CLASSES, "preprocessing": PREPROCESSING}
    subbyte.export(quantized, path, batches[0][0], **named)
    return Exported(model, quantized, path, batches)


def top1(model: Any, batches: list[Any]) -> float:
    right = [(model(x).argmax(1) == y).float() for x, y in batches]
    return float(torch.cat(right).mean())


def test_evaluate_gives_the_share_of_right_answers(classifier: Exported) -> None:
    batches = classifier.batches
    for model in (classifier.model, classifier.quantized):
        found = subbyte.evaluate(model, batches)
        assert found.metrics["top1"] == pytest.approx(top1(model, batches))
        assert (found.images, found.task, found.runtime) == (24, "classification", None)
        low, high = found.intervals["top1"]
        assert low < found.metrics["top1"] < high
    session = onnxruntime.InferenceSession(str(classifier.path))
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    found = subbyte.evaluate(classifier.path, batches)
    assert found.metrics["top1"] == pytest.approx(top1(run, batches))
    assert found.runtime == "onnxruntime"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_of_a_fixed_batch_is_run_batch_by_batch(
    classifier: Exported, tmp_path: Path, runtime: str
) -> None:
    """Of 3 images at once: 8 are two batches of it and a third that is filled up."""
    proto = onnx.load(classifier.path)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(proto, tmp_path / "fixed.onnx")
    found = subbyte.evaluate(tmp_path / "fixed.onnx", classifier.batches, runtime=runtime)
    free = subbyte.evaluate(classifier.path, classifier.batches, runtime=runtime)
    assert found.metrics == free.metrics
    assert found.images == 24


def test_the_modules_modes_are_left_as_they_were(classifier: Exported) -> None:
    model = Classifier().train()
    model.head.eval()
    subbyte.evaluate(model, classifier.batches)
    assert model.training
    assert model.stem.training
    assert not model.head.training


def test_verify_has_what_the_table_has(classifier: Exported) -> None:
    found = subbyte.verify(classifier.quantized, classifier.path, classifier.batches)
    with torch.no_grad():
        exact = torch.cat([classifier.model(x) for x, _ in classifier.batches])
        rough = torch.cat([classifier.quantized(x) for x, _ in classifier.batches])
    noise = 10 * torch.log10(
        exact.double().square().sum() / (exact - rough).double().square().sum()
    )
    assert found.sqnr_db == pytest.approx(float(noise), abs=1e-3)
    assert found.sqnr_db_outputs == {"output": pytest.approx(found.sqnr_db)}
    same = (exact.argmax(1) == rough.argmax(1)).float().mean()
    assert found.agreement_with_float == pytest.approx(float(same))
    assert found.float_metrics["top1"] == pytest.approx(top1(classifier.model, classifier.batches))
    assert found.metrics["top1"] == pytest.approx(top1(classifier.quantized, classifier.batches))
    assert found.size_bytes == classifier.path.stat().st_size
    assert set(found.deployed) == set(RUNTIMES)
    for own in found.deployed.values():
        assert own.agreement == 1
        assert own.max_abs_diff < 0.05
        assert own.int8_ops == own.int8_candidates == 2
        assert own.latency_ms > 0
        assert own.metrics["top1"] == pytest.approx(found.metrics["top1"])
    json.dumps(asdict(found))  # plain numbers


def test_the_commands_take_a_file_made_from_python(classifier: Exported, tmp_path: Path) -> None:
    for i, name in enumerate(CLASSES):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for k in range(2):
            grey = np.full((16, 20, 3), 20 + 90 * i + 5 * k, np.uint8)
            Image.fromarray(grey).save(folder / f"{k}.png")
    image = tmp_path / "pictures/mid/0.png"
    result = CliRunner().invoke(app, ["predict", str(classifier.path), str(image), "--json"])
    assert result.exit_code == 0, result.stderr
    (answer,) = json.loads(result.stdout)
    prepared = torch.full((1, 3, 8, 8), (110 / 255 - 0.5) / 0.5)
    with torch.no_grad():
        best = CLASSES[int(classifier.quantized(prepared).argmax())]
    assert answer["classes"][0]["class"] == best
    data = str(tmp_path / "pictures")
    arguments = ["evaluate", str(classifier.path), "--data", data, "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    found = subbyte.evaluate(classifier.path, data)
    assert json.loads(result.stdout)["metrics"] == found.metrics
    assert found.images == 6


def test_the_model_keeps_its_own_metadata(classifier: Exported) -> None:
    assert "classes" not in classifier.quantized.metadata
    assert "preprocessing" not in classifier.quantized.metadata


def test_torchvisions_transforms_are_a_preprocessing(classifier: Exported, tmp_path: Path) -> None:
    from torchvision.transforms._presets import ImageClassification

    preset = ImageClassification(crop_size=8, resize_size=12)
    path = tmp_path / "net.onnx"
    subbyte.export(classifier.quantized, path, torch.randn(2, 3, 8, 8), preprocessing=preset)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "black.png")
    arguments = ["predict", str(path), str(tmp_path / "black.png"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    assert {row["class"] for row in json.loads(result.stdout)[0]["classes"]} == {"0", "1", "2"}


def test_verify_takes_any_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = Two().eval(), tmp_path / "two.onnx"
    batches = [(torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)) for _ in range(2)]
    quantized = subbyte.quantize(model, batches, W4)
    subbyte.export(quantized, path, batches[0])
    found = subbyte.verify(quantized, path, batches, runtimes=["onnxruntime"])
    assert found.agreement_with_float is None
    assert found.deployed["onnxruntime"].agreement is None
    assert found.deployed["onnxruntime"].max_abs_diff < 0.05
    assert set(found.sqnr_db_outputs) == {"map", "mean"}
    with torch.no_grad():
        exact = torch.cat([model(*batch)["map"] for batch in batches]).double()
        error = torch.cat([quantized(*batch)["map"] for batch in batches]).double() - exact
    expected = float(10 * torch.log10(exact.square().sum() / error.square().sum()))
    assert found.sqnr_db_outputs["map"] == pytest.approx(expected, abs=1e-3)
    assert found.metrics == {}


def seen(model: Any, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """What a detector finds, as the truth for itself."""
    with torch.no_grad():
        return [{key: found[key] for key in ("boxes", "labels")} for found in model(images)]


def detector(name: str, folder: Path) -> Exported:
    torch.manual_seed(0)
    images = [[torch.rand(3, 64, 64) for _ in range(2)] for _ in range(2)]
    if name == "raw":
        network = raw_networks.network("yolox")
        said: dict[str, Any] = {
            "outputs": raw_networks.sentence("yolox"),
            "preprocessing": subbyte.detection.Preprocessing(letterbox=64, place="corner"),
        }
    else:
        network, said = small_detectors.detector(name), {}
    quantized = subbyte.quantize(network, images, subbyte.Recipe(method="range"), **said)
    batches = [(batch, seen(quantized.float_model, batch)) for batch in images]
    names = None if name == "raw" else ["a", "b", "c"]
    path = folder / f"{name}.onnx"
    subbyte.export(quantized, path, torch.stack(images[0]), classes=names)
    return Exported(network, quantized, path, batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd", "raw", "fasterrcnn"])
def test_detectors(name: str, tmp_path: Path) -> None:
    made = detector(name, tmp_path)
    own = {}
    if name == "raw":
        own = {
            "outputs": raw_networks.sentence("yolox"),
            "preprocessing": subbyte.detection.Preprocessing(letterbox=64, place="corner"),
        }
    exact = subbyte.evaluate(made.model, made.batches, **own)
    assert exact.task == "detection"
    assert exact.metrics["AP"] > 0.99  # the truth is what it finds itself
    rough = subbyte.evaluate(made.quantized, made.batches)
    found = subbyte.verify(made.quantized, made.path, made.batches)
    assert found.float_metrics["AP"] == pytest.approx(exact.metrics["AP"], abs=0.02)
    assert found.metrics == rough.metrics
    assert found.images == 4
    assert 0.2 < found.agreement_with_float <= 1
    assert len(found.sqnr_db_outputs) >= 1
    for runtime, values in found.deployed.items():
        assert values.agreement > 0.9, runtime
        file = subbyte.evaluate(made.path, made.batches, runtime=runtime)
        assert file.metrics == values.metrics
    image = tmp_path / "wide.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 96, 3), np.uint8)).save(image)
    result = CliRunner().invoke(app, ["predict", str(made.path), str(image), "--json"])
    assert result.exit_code == 0, result.stderr
    (answer,) = json.loads(result.stdout)
    assert answer["objects"]
    assert all(row["box"][2] <= 96 and row["box"][3] <= 48 for row in answer["objects"])
    if name != "raw":
        assert {row["class"] for row in answer["objects"]} <= {"a", "b", "c"}


@pytest.mark.slow
def test_a_retinanets_raw_outputs_are_verified_with_its_own_boxes(tmp_path: Path) -> None:
    images = [[torch.rand(3, 64, 64) for _ in range(2)]]
    network, path = small_detectors.detector("retinanet"), tmp_path / "raw.onnx"
    quantized = subbyte.quantize(network, images, subbyte.Recipe(method="range"))
    subbyte.export(quantized, path, torch.stack(images[0]), postprocess=False)
    found = subbyte.verify(quantized, path, images, runtimes=["onnxruntime"])
    assert found.deployed["onnxruntime"].agreement > 0.9
    assert found.metrics == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"classes": ["a"]}, "classes has 1 names, and the model has 3 outputs"),
        ({"classes": "abc"}, "give a list of names"),
        ({"preprocessing": {"crop": 16}}, "makes images of 16x16, and the example has 8x8"),
        ({"preprocessing": {"mean": [0.5], "std": [0.5]}}, "makes 1 channels, and the example"),
        ({"preprocessing": {"crp": 8}}, "unknown key 'preprocessing.crp'"),
        ({"preprocessing": {"letterbox": 8}}, "letterbox is for raw networks"),
        ({"preprocessing": 8}, "preprocessing is 8: give"),
    ],
)
def test_what_does_not_fit_a_file_is_refused(
    classifier: Exported, tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(subbyte.SubbyteError, match=says):
        subbyte.export(classifier.quantized, path, torch.randn(2, 3, 8, 8), **given)
    assert not path.exists()


def test_bad_input_of_evaluate_and_verify(classifier: Exported, tmp_path: Path) -> None:
    model, path, batches = classifier.model, classifier.path, classifier.batches
    bare = [x for x, _ in batches]
    one_hot = [(x, torch.nn.functional.one_hot(y, 3).float()) for x, y in batches]
    floats = [(x, y.float()) for x, y in batches]
    named = [{"inputs": x, "targets": y.float()} for x, y in batches]
    wrong = [(x, y + 9) for x, y in batches]
    refused = [
        (lambda: subbyte.evaluate(model, bare), "a batch has no labels"),
        (
            lambda: subbyte.evaluate(model, one_hot),
            r"whole numbers.* \[\d+, 3\] of float32.*argmax",
        ),
        (lambda: subbyte.evaluate(path, floats), r"whole numbers.* of float32: give labels.long"),
        (lambda: subbyte.evaluate(model, named), r"whole numbers.* of float32: give labels.long"),
        (lambda: subbyte.evaluate(model, wrong), "and the model has 3 classes"),
        (lambda: subbyte.evaluate(model, "digits"), "give labelled batches"),
        (lambda: subbyte.evaluate(None, batches), "the model is a NoneType"),
        (lambda: subbyte.evaluate(model, batches, runtime="openvino"), "runs in PyTorch"),
        (lambda: subbyte.evaluate(path, batches, runtime="tflite"), "unknown runtime 'tflite'"),
        (lambda: subbyte.evaluate(tmp_path / "no.onnx", batches), "there is no file"),
        (lambda: subbyte.evaluate(model, batches[0]), "data is a tuple of 2"),
        (lambda: subbyte.verify(model, path, batches), "Classifier is not a quantized model"),
        (lambda: subbyte.verify(classifier.quantized, tmp_path / "no.onnx", bare), "no file"),
        (
            lambda: subbyte.verify(classifier.quantized, path, [x[..., :4] for x in bare]),
            "captured",
        ),
    ]
    for call, says in refused:
        with pytest.raises(subbyte.SubbyteError, match=says):
            call()
    other = subbyte.quantize(model, bare, subbyte.Recipe(method="range"))
    with pytest.raises(subbyte.SubbyteError, match="written with another recipe"):
        subbyte.verify(other, path, bare)


def test_batches_of_which_some_have_labels_have_no_metrics(classifier: Exported) -> None:
    batches = [*classifier.batches[:2], classifier.batches[2][0]]
    found = subbyte.verify(classifier.quantized, classifier.path, batches, runtimes=["onnxruntime"])
    assert found.images == 24
    assert found.float_metrics == found.metrics == found.deployed["onnxruntime"].metrics == {}
    assert found.agreement_with_float is not None


def test_an_output_that_is_no_number_is_a_difference(classifier: Exported) -> None:
    images = torch.full((8, 3, 8, 8), torch.nan)
    found = subbyte.verify(
        classifier.quantized,
        classifier.path,
        [images, classifier.batches[0][0]],
        runtimes=["onnxruntime"],
    )
    largest = found.deployed["onnxruntime"].max_abs_diff
    assert largest is not None
    assert not largest < 1e-3


def test_evaluate_takes_a_model_whose_argument_is_a_mapping() -> None:
    class Mapped(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return inputs["logits"]

    logits, labels = torch.eye(4), torch.tensor([0, 1, 3, 3])
    found = subbyte.evaluate(Mapped(), [{"inputs": ({"logits": logits},), "targets": labels}])
    assert found.metrics["top1"] == 0.75
