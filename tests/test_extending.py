"""The examples of docs/howto/extend.md, run as they stand: each is one file, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import subbyte

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^`(src/subbyte/[\w/]+\.py)`:\n\n```python\n(.*?)^```$", re.M | re.S)

USE = """
import json
import sys
import torch
from torch import nn

import subbyte
from subbyte import detectors, models, recipe, targets
from subbyte.app.experiment import Experiment
from subbyte.models.config import ModelConfig
from subbyte.numerics import ranges

torch.manual_seed(0)  # else a value may lie between two integers by chance
model = models.load(ModelConfig(name="lenet")).module
images = torch.rand(8, 1, 28, 28)
found = {"lenet": [n for group in models.names().values() for n in group if n == "lenet"]}
found["outputs"] = list(model(images).shape)
found["methods"] = recipe.method_names()

chosen = subbyte.Recipe(
    ranges={"name": "sigma", "n": 4}, method={"name": "stochastic", "share": 0.5}
)
quantized = subbyte.quantize(model, [images], chosen)
plain = subbyte.quantize(model, [images], subbyte.Recipe(ranges="minmax", method="range"))
with torch.no_grad():
    found["errors"] = [float((q(images) - model(images)).abs().max()) for q in (quantized, plain)]
    found["largest"] = float(model(images).abs().max())
rows = {(r["layer"], r["role"]): r["scale"] for r in subbyte.layers(quantized)}
mean, deviation = float(images.mean()), float(images.std(correction=0))
low, high = max(float(images.min()), mean - 4 * deviation), min(
    float(images.max()), mean + 4 * deviation
)
found["scales"] = [rows["0", "activation"], (max(high, 0) - min(low, 0)) / 255]

subbyte.export(plain, sys.argv[1], images)
from subbyte.targets import base

session = base.runtime("reference").load(sys.argv[1], 1)
experiment = Experiment(
    model={"name": "lenet"}, data={"name": "digits"}, variants={"a": {}}, runtimes=["reference"]
)
found["runtimes"] = list(experiment.runtimes)
given = torch.from_numpy(session.run(images.numpy())[0])
with torch.no_grad():
    found["runtime"] = float((given - plain(images)).abs().max())
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a copy of the package with all examples in it does, in a process of its own."""
    import json

    folder = tmp_path_factory.mktemp("extended")
    package = folder / "src" / "subbyte"
    shutil.copytree(Path(subbyte.__file__).parent, package)
    examples = EXAMPLE.findall((ROOT / "docs" / "howto" / "extend.md").read_text(encoding="utf-8"))
    for name, code in examples:
        path = folder / name
        assert not path.exists(), f"{name} is there already"
        path.write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE, str(folder / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    return {**json.loads(lines[0][5:]), "files": [name for name, _ in examples]}


def test_the_page_has_an_example_of_each(found: dict[str, list[str]]) -> None:
    folders = {str(Path(name).parent) for name in found["files"]}
    expected = ("models/families", "numerics/ranges", "methods", "targets", "detectors")
    assert folders == {f"src/subbyte/{folder}" for folder in expected}


def test_a_model(found: dict[str, object]) -> None:
    assert found["lenet"] == ["lenet"]
    assert found["outputs"] == [8, 10]


def test_a_range_rule(found: dict[str, list[float]]) -> None:
    scale, expected = found["scales"]
    assert scale == pytest.approx(expected, rel=0.01)  # a histogram's bins are that wide


def test_a_method(found: dict[str, list[float]]) -> None:
    assert "stochastic" in found["methods"]
    noisy, plain = found["errors"]
    assert plain < noisy < 0.2 * float(found["largest"])  # type: ignore[arg-type]


def test_a_runtime(found: dict[str, float]) -> None:
    assert found["runtime"] < 1e-4
    assert found["runtimes"] == ["reference"]  # type: ignore[comparison-overlap]
