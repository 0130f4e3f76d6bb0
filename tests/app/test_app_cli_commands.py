"""The commands for one model: quantize, export, evaluate, predict; and the lists."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from processor import exact_sums
from subbyte.data.digits import digits_split
from subbyte.targets.onnx.export import read_metadata

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

COMMANDS = ("run", "quantize", "export", "evaluate", "predict", "models", "experiments")


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    """What ONNX Runtime says of 8×8 images."""
    inputs = ((images.astype(np.float32) / 255 - 0.305) / 0.376).astype(np.float32)[:, None]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"input": inputs})[0]
    return logits


@pytest.fixture(scope="module")
def exported(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model at 4 bits, quantized and exported by two commands."""
    folder = tmp_path_factory.mktemp("commands")
    saved, path = folder / "digits.safetensors", folder / "digits.onnx"
    settings = "--bits", "w4a4", "--set", "ranges=minmax", "--images", 64
    result = cli("quantize", "digits", "--calibration", "digits", *settings, "--out", saved)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{saved}: ")
    result = cli("export", "digits", saved, "--out", path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{path}: {path.stat().st_size} bytes\n"
    return path


@pytest.mark.slow
def test_export_for_one_runtime(exported: Path, cli: Cli) -> None:
    saved, path = exported.with_name("digits.safetensors"), exported.with_name("own.onnx")
    result = cli("export", "digits", saved, "--out", path, "--target", "onnxruntime", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert read_metadata(path)["target"] == "onnxruntime"
    refused = cli("export", "digits", saved, "--out", path, "--target", "onnxruntme")
    assert refused.exit_code == 2
    assert "unknown target 'onnxruntme': did you mean 'onnxruntime'?" in refused.stderr


@exact_sums
def test_evaluate_counts_what_the_file_gets_right(exported: Path, cli: Cli) -> None:
    images, labels = digits_split()[2:]
    expected = float((logits_of(exported, images).argmax(1) == labels).mean())
    result = cli("evaluate", exported, "--data", "digits", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    evaluated = json.loads(result.stdout)
    assert (evaluated["images"], evaluated["metrics"]["top1"]) == (899, expected)
    result = cli("evaluate", exported, "--data", "digits", "--runtime", "openvino")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"top1 {expected:.2%} (")
    assert result.stdout.endswith("on 899 images in openvino\n")
    quiet = cli("evaluate", exported, "--data", "digits", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_predict_gives_the_classes_of_pictures(
    exported: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images = digits_split()[2][:5]
    paths = [f"{i}.png" for i in range(5)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    logits = logits_of(exported, images).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    result = cli("predict", exported, *paths, "--top", 3, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    predictions = json.loads(result.stdout)
    assert [prediction["image"] for prediction in predictions] == paths
    for prediction, share in zip(predictions, shares, strict=True):
        likeliest = np.argsort(-share, kind="stable")[:3]
        assert [guess["class"] for guess in prediction["classes"]] == [str(i) for i in likeliest]
        probabilities = [guess["probability"] for guess in prediction["classes"]]
        np.testing.assert_allclose(probabilities, share[likeliest], rtol=1e-4)
    table = cli("predict", exported, paths[0], "--top", 1).stdout
    (row,) = [line for line in table.splitlines() if "0.png" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [paths[0], str(logits[0].argmax()), f"{shares[0].max():.3f}"]


def test_quantize_prints_the_tensors_as_json(cli: Cli, own: Own) -> None:
    arguments = "net.py:build", "--checkpoint", "net.pt", "--calibration", "pictures/train"
    result = cli("quantize", *arguments, "--bits", "w3a5", "--out", "q.safetensors", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    bits = {(row["layer"], row["role"]): row["bits"] for row in json.loads(result.stdout)}
    assert (bits["mix", "weight"], bits["mix", "activation"]) == (3, 5)
    assert (bits["edges", "weight"], bits["head", "weight"]) == (8, 8)
    assert (own.path / "q.safetensors").is_file()


def test_quantize_takes_pictures_of_any_sizes_where_it_is_told_how(
    own: Own, cli: Cli, refusal: Refusal
) -> None:
    Image.new("RGB", (20, 24)).save(own.path / "pictures/train/dark/large.png")
    quantize = "quantize", "net.py:build", "--checkpoint", "net.pt", "--calibration"
    rest = "pictures/train", "--set", "method=range", "--out", "q.safetensors"
    message = refusal(*quantize, *rest)
    assert "a batch needs one size" in message
    assert "on the command line: --preprocessing '{resize: 256, crop: 224}'" in message
    prepared = "--preprocessing", "{resize: 16, crop: [12, 16], mean: [0, 0, 0], std: [1, 1, 1]}"
    result = cli(*quantize, *rest, *prepared)
    assert result.exit_code == 0, result.stderr
    assert "assumed" not in result.stdout
    exported = "export", "net.py:build", "q.safetensors", "--checkpoint", "net.pt", "--out"
    assert cli(*exported, "m.onnx").exit_code == 0
    assert read_metadata(Path("m.onnx"))["preprocessing"] == {
        "resize": 16, "crop": [12, 16], "mean": [0, 0, 0], "std": [1, 1, 1],
        "interpolation": "bilinear",
    }  # fmt: skip
    for given, says in (
        ("{rezise: 16}", "unknown key 'preprocessing.rezise': did you mean 'preprocessing.resize'"),
        ("16", "preprocessing is 16: give a mapping"),
        ("{resize: small}", "preprocessing.resize"),
    ):
        assert says in refusal(*quantize, *rest, "--preprocessing", given)
    bundled = "quantize", "digits", "--calibration", "digits", "--out", "d.safetensors"
    assert "has no meaning for digits" in refusal(*bundled, "--preprocessing", "{resize: 16}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("quantize digts --calibration digits --out q", "did you mean 'digits'?"),
        ("quantize digits --calibration gone --out q", "folder gone cannot be read"),
        ("quantize digits --calibration digits --bits w4 --out q", "bits is 'w4'"),
        ("quantize digits --calibration digits --bits w9a9 --out q", "9 bits are not supported"),
        ("quantize digits --calibration digits --set ranges --out q", "--set ranges has no value"),
        ("quantize digits --calibration digits --out pictures", "pictures is a folder"),
        ("quantize digits --calibration digits --out net.py/q", "net.py, which is no folder"),
        ("quantize digits --calibration digits --set seed=-1 --out q", "seed is -1: give 0"),
        ("quantize digits --calibration digits --set statistics=s --out q", "no file of statis"),
        ("sensitivity digits --calibration digits --out net.py/s.csv", "which is no folder"),
        ("export digits net.py --out net.py/m.onnx", "net.py/m.onnx lies under"),
        ("export digits gone --out m.onnx", "there is no file gone"),
        ("export digits net.py --out m.onnx", "net.py is not a whole safetensors file"),
        ("evaluate gone.onnx --data digits", "there is no file gone.onnx"),
        ("evaluate net.py --data digits", "net.py is not an ONNX file"),
        ("predict gone.onnx picture.png", "there is no file gone.onnx"),
    ],
)
def test_what_the_commands_refuse(own: Own, refusal: Refusal, arguments: str, says: str) -> None:
    assert says in refusal(*arguments.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "quantize digits --calibration digits --out q",
        "sensitivity digits --calibration digits",
        "diagnose digits net.py --data digits",
    ],
)
def test_a_seed_is_not_negative(own: Own, cli: Cli, arguments: str) -> None:
    result = cli(*arguments.split(), "--seed", "-1")
    assert result.exit_code == 2
    assert "Invalid value for '--seed'" in result.stderr


def test_what_is_broken_is_said_without_a_key_that_a_command_lacks(
    own: Own, refusal: Refusal
) -> None:
    (own.path / "pictures/train/dark/0.png").write_bytes(b"no picture")
    message = refusal("quantize", "net.py:build", "--calibration", "pictures/train", "--out", "q")
    assert "dark/0.png is not an image" in message
    assert message.rstrip().endswith("replace what is broken, or take it out")


def test_what_a_file_does_not_fit(exported: Path, own: Own, refusal: Refusal) -> None:
    assert "unknown runtime 'onnxrt': did you mean 'onnxruntime'?" in refusal(
        "evaluate", exported, "--data", "digits", "--runtime", "onnxrt"
    )
    assert "image gone.png does not exist" in refusal("predict", exported, "gone.png")
    bundled = "evaluate", exported, "--data", "digits", "--classes", "gone.txt"
    assert "classes gone.txt has no meaning for digits" in refusal(*bundled)
    assert "image net.py is not an image" in refusal("predict", exported, "net.py")
    saved = exported.with_suffix(".safetensors")
    message = refusal("export", "net.py:build", saved, "--out", "m.onnx")
    assert "the model does not run on a batch of shape (64, 1, 8, 8)" in message


def test_a_saved_model_belongs_to_its_float_weights(own: Own, cli: Cli, refusal: Refusal) -> None:
    arguments = "net.py:build", "--checkpoint", "net.pt"
    calibration = "--calibration", "pictures/train", "--out", "q.safetensors", "--quiet"
    result = cli("quantize", *arguments, *calibration)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    message = refusal("export", "net.py:build", "q.safetensors", "--out", "m.onnx")
    assert "q.safetensors was made from another model" in message


def test_the_lists_and_the_version(cli: Cli) -> None:
    models = json.loads(cli("models", "--json").stdout)
    assert models["bundled"] == ["digits", "digit-scenes"]
    assert "resnet18" in models["torchvision"]
    assert "cifar: cifar_resnet20, " in cli("models").stdout
    experiments = json.loads(cli("experiments", "--json").stdout)
    assert experiments["digits"]
    assert f"digits: {experiments['digits']}" in cli("experiments").stdout.splitlines()
    version = cli("--version")
    assert (version.exit_code, version.stdout) == (0, f"subbyte {metadata.version('subbyte')}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert f"Example: subbyte {command}" in result.stdout


def test_help_lists_every_command(cli: Cli) -> None:
    listed = cli("--help").stdout
    assert all(f"\n  {command} " in listed for command in COMMANDS)


@pytest.mark.slow
def test_images_of_a_size_that_the_file_does_not_take(own: Own, cli: Cli, refusal: Refusal) -> None:
    arguments = "net.py:build", "--calibration", "pictures/train", "--out", "q.safetensors"
    assert cli("quantize", *arguments).exit_code == 0
    assert cli("export", "net.py:build", "q.safetensors", "--out", "m.onnx").exit_code == 0
    Image.new("RGB", (24, 24)).save("large.png")
    for runtime in ("onnxruntime", "openvino"):
        assert "24" in refusal("predict", "m.onnx", "large.png", "--runtime", runtime)


def test_brackets_in_a_name_stay(
    exported: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(digits_split()[2][0]).save("digit[new].png")
    assert "digit[new].png" in cli("predict", exported, "digit[new].png").stdout
