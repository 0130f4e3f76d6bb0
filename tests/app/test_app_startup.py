"""What is answered without PyTorch: help, lists, and bad input that can be seen before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# None of these may be imported; each takes a good part of a second or more.
SLOW = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "sklearn", "pycocotools")
SCRIPT = f"""
import json, sys
from typer.testing import CliRunner
from subbyte.app.cli import app

for arguments in json.load(sys.stdin):
    result = CliRunner().invoke(app, arguments)
    slow = [name for name in {SLOW} if name in sys.modules]
    print(json.dumps([result.exit_code, result.stdout, result.stderr, slow]))
"""

COMMANDS = ["run", "train", "quantize", "export", "evaluate", "predict", "compare", "report"]
COMMANDS += ["inspect", "models", "experiments"]
ANSWERED = [
    ["--version"],
    ["--help"],
    *([command, "--help"] for command in COMMANDS),
    ["experiments"],
    ["experiments", "--json"],
    ["models"],
    ["models", "--json"],
    ["models", "resnet"],
    ["models", "timm/resnet18"],
    ["models", "libreyolo/"],
]
RUN, TRAIN = ["run", "digits", "--set"], ["train", "digits", "--set"]
QUANTIZE = ["quantize", "--calibration", "digits", "--out", "new.safetensors"]
REFUSED = [
    (["nothing"], "No such command 'nothing'"),
    (["run", "digits", "--sett", "a=b"], "No such option: --sett"),
    (["run", "digts"], "unknown experiment 'digts'"),
    (["run", "gone.yaml"], "there is no experiment gone.yaml"),
    (["run", "broken.yaml"], "broken.yaml is not valid YAML at line 2"),
    (["run", "digits", "--only", "w8a9"], "unknown variant 'w8a9'"),
    (["run", "seeds/resnet18"], "runs on images of yours"),
    (["run", "seeds/resnet18", "--set", "data.root=gone"], "data.root gone does not exist"),
    (["run", "digits", "--device", "gpu"], "'gpu' is not a device"),
    ([*RUN, "bach_size=8"], "unknown key 'bach_size'"),
    ([*RUN, "batch_size"], "--set batch_size has no value"),
    ([*RUN, "model.name=digts"], "unknown model 'digts'"),
    ([*RUN, "model.checkpoint=gone.pt"], "checkpoint 'gone.pt' does not exist"),
    ([*RUN, "data.name=digts"], "did you mean 'digits'?"),
    ([*RUN, "runtimes=[onnxruntme]"], "unknown runtime 'onnxruntme'"),
    ([*RUN, "variants.w4a4.weights=9"], "variants.w4a4: weights: 9 bits"),
    ([*RUN, "variants.w4a4.method=rnge"], "unknown method 'rnge'"),
    ([*RUN, "variants.w4a4.ranges=mmse"], "unknown range rule 'mmse'"),
    ([*RUN, "variants.w4a4.ranges={name: mse, p: 20}"], "p is 20: it must be above 0"),
    ([*RUN, "variants.w4a4.ranges={name: n_std, m: 2}"], "unknown option of range rule 'n_std'"),
    ([*RUN, "variants.w4a4.ranges={name: percentile, percentile: 5}"], "percentile is 5"),
    (["train", "digits"], "has no section training"),
    ([*TRAIN, "training.model=resnet18"], "is not an SSD that can be trained"),
    ([*QUANTIZE, "resnt18"], "unknown model 'resnt18': did you mean 'resnet18'?"),
    ([*QUANTIZE, "timm/resnt18"], "unknown model 'timm/resnt18'"),
    ([*QUANTIZE, "gone.py:build"], "gone.py' does not exist"),
    ([*QUANTIZE, "digits", "--bits", "8"], "bits is '8'"),
    ([*QUANTIZE, "digits", "--calibration", "gone"], "folder gone cannot be read"),
    ([*QUANTIZE, "digits", "--out", "."], ". is a folder: name a file to write"),
    (["export", "digits", "gone.safetensors", "--out", "new.onnx"], "there is no file gone"),
    (["export", "digits", "x", "--out", "new.onnx", "--target", "tflite"], "unknown target"),
    (["evaluate", "gone.onnx", "--data", "digits"], "there is no file gone.onnx"),
    (["evaluate", "broken.yaml", "--data", "digits", "--runtime", "tflite"], "unknown runtime"),
    (["predict", "gone.onnx", "cat.jpg"], "there is no file gone.onnx"),
    (["predict", "broken.yaml", "cat.jpg"], "image cat.jpg does not exist"),
    (["models", "resnett"], "unknown model 'resnett'"),
    (["compare", "gone", "gone"], "there is no run gone"),
    (["compare", ".", ".", "--max-drop", "-1"], "max-drop is -1"),
    (["report", "gone"], "there is no folder gone"),
    (["report", "."], ". holds no run"),
    (["run", "digits", "--ray", "here"], "--ray is 'here'"),
    (["run", "digits", "--workers", "0"], "Invalid value for '--workers'"),
]  # fmt: skip

Answers = dict[str, tuple[int, str, str, list[str]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Exit code, standard output and error of each command, and what was imported until then.

    One process runs them all, so that nothing but a command's own module is imported twice.
    """
    folder = tmp_path_factory.mktemp("startup")
    (folder / "broken.yaml").write_text("model: {name: digits\ndata: ]\n")
    commands = [*ANSWERED, *(arguments for arguments, _ in REFUSED)]
    script = [sys.executable, "-c", SCRIPT]
    finished = subprocess.run(
        script, input=json.dumps(commands), cwd=folder, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [path.name for path in folder.iterdir()] == ["broken.yaml"]
    return {" ".join(c): tuple(line) for c, line in zip(commands, lines, strict=True)}


@pytest.mark.parametrize("arguments", ANSWERED, ids=" ".join)
def test_help_and_lists_do_without_pytorch(answers: Answers, arguments: list[str]) -> None:
    code, stdout, stderr, imported = answers[" ".join(arguments)]
    assert (code, stderr, imported) == (0, "", [])
    assert stdout


@pytest.mark.parametrize(("arguments", "says"), REFUSED, ids=lambda x: " ".join(x)[:60])
def test_bad_input_is_refused_without_pytorch(
    answers: Answers, arguments: list[str], says: str
) -> None:
    code, stdout, stderr, imported = answers[" ".join(arguments)]
    assert (code, stdout, imported) == (2, "", [])
    assert says in stderr


def test_importing_the_package_and_making_a_recipe_does_not_import_pytorch() -> None:
    script = "import subbyte, sys; subbyte.Recipe(ranges={'name': 'lp', 'p': 3}, method='subbyte')"
    finished = subprocess.run(
        [sys.executable, "-c", f"{script}; print([n for n in {SLOW} if n in sys.modules])"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert finished.stdout == "[]\n"
