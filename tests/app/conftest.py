"""The command line run in this process, and a user's own tiny model and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from subbyte.app.cli import app

Cli = Callable[..., Result]
Refusal = Callable[..., str]

NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.edges = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.mix = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.edges(x)))
        return self.head(torch.relu(self.mix(x)).mean((2, 3)))


def build(classes=2):
    return Net(classes)
"""


def bright_from_dark() -> dict[str, torch.Tensor]:
    """Weights of `Net` whose logits are (brightness − darkness, darkness − brightness)."""
    edges, mix, head = torch.zeros(4, 3, 3, 3), torch.zeros(4, 4, 1, 1), torch.zeros(2, 4)
    edges[0], edges[1] = 1 / 27, -1 / 27
    mix[0, 0], mix[1, 1] = 1, 1
    head[:, :2] = torch.tensor([[1, -1], [-1, 1]])
    state = {"edges.weight": edges, "mix.weight": mix, "head.weight": head}
    state |= {"norm.weight": torch.ones(4), "norm.running_var": torch.ones(4)}
    state |= {"norm.bias": torch.zeros(4), "norm.running_mean": torch.zeros(4)}
    biases = {"edges.bias": torch.zeros(4), "mix.bias": torch.zeros(4), "head.bias": torch.zeros(2)}
    return state | biases


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies under a folder: path → size and time of the last change; Python's cache aside."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        if path.is_file()
        else (0, 0)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@dataclass(frozen=True)
class Own:
    """A user's folder: net.py, net.pt, pictures/{train,val}/{bright,dark} with 4 pictures each."""

    path: Path

    def yaml(self, **changes: Any) -> Path:
        """Write my.yaml, the user's experiment with other values for some of its keys."""
        experiment: dict[str, Any] = {
            "model": {"factory": "net.py:build", "checkpoint": "net.pt"},
            "data": {"root": "pictures"},
            "variants": {"w8a8": {}},
            "runtimes": [],
        }
        return self.write(yaml.safe_dump({**experiment, **changes}, sort_keys=False))

    def write(self, text: str) -> Path:
        """Write my.yaml word for word."""
        (self.path / "my.yaml").write_text(text)
        return self.path / "my.yaml"

    def rewrite(self, old: str, new: str) -> None:
        """Change the code of net.py."""
        assert old in NET
        (self.path / "net.py").write_text(NET.replace(old, new))

    def draw(self, name: str, low: int, high: int, seed: int = 0) -> Path:
        """Save a 16×16 picture of random values from `low` to below `high`."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(low, high, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    def results(self, folder: str = "out") -> dict[str, Any]:
        """The results of a run in `folder`."""
        read: dict[str, Any] = json.loads((self.path / folder / "results.json").read_text())
        return read


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    """The user's folder, which is also the current one."""
    monkeypatch.chdir(tmp_path)
    folder = Own(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    torch.save(bright_from_dark(), tmp_path / "net.pt")
    for i in range(4):
        for s, split in enumerate(("train", "val")):
            folder.draw(f"pictures/{split}/bright/{i}.png", 150, 256, seed=10 * s + i)
            folder.draw(f"pictures/{split}/dark/{i}.png", 0, 90, seed=100 + 10 * s + i)
    return folder


@pytest.fixture(scope="session")
def cli() -> Cli:
    """cli("run", "digits", …): the command, run in this process."""
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def refusal(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """refusal("run", …): the one sentence with which bad input is refused, leaving no trace."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments: object) -> str:
        before = tree(tmp_path)
        result = cli(*arguments)
        assert result.exit_code == 2, result.stderr
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert tree(tmp_path) == before
        return str(result.stderr)

    return check


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its results.json, and what the command printed."""

    folder: Path
    results: dict[str, Any]
    stdout: str

    def entry(self, name: str) -> dict[str, Any]:
        """What the results say of "float" or a variant."""
        entries = [{"name": "float", **self.results["float"]}, *self.results["variants"]]
        return next(entry for entry in entries if entry["name"] == name)

    def model(self, name: str) -> Path:
        """The ONNX file of "float" or a variant."""
        return self.folder / ("float" if name == "float" else f"variants/{name}") / "model.onnx"


@pytest.fixture(scope="session")
def digits(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two variants of the bundled experiment, on all of its evaluation images."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    chosen = "--only", "w8a8", "--only", "w4a4", "--set", "data.calibration_images=32"
    result = cli("run", "digits", *chosen, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return Run(folder, json.loads((folder / "results.json").read_text()), result.stdout)
