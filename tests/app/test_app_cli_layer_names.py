"""Layers are called in overrides as `inspect` calls them, and what is no layer is found early."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from subbyte import api
from subbyte.app import experiment
from subbyte.app.inspection import example_of
from subbyte.app.loading import load_model
from subbyte.app.setup import set_up
from subbyte.errors import SubbyteError
from subbyte.utils.progress import Silent

if TYPE_CHECKING:
    from .conftest import Cli

FACTORY = """\
from raw_networks import network


def build():
    return network("dfl")
"""
OUTPUTS: dict[str, Any] = {
    "form": "levels", "bins": 4, "strides": [8, 16], "point": "half", "score": 0.05,
}  # fmt: skip
PREPARED = {"letterbox": 64}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    return tmp_path


def write(folder: Path, pattern: str) -> str:
    fields = {
        "model": {"factory": "net.py:build", "outputs": OUTPUTS},
        "data": {"root": "empty", "format": "coco", "preprocessing": PREPARED},
        "variants": {"own": {"overrides": {pattern: {"weights": 4}}}},
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(fields))
    return str(folder / "my.yaml")


def test_inspect_prints_the_names_that_overrides_take(cli: Cli, own: Path) -> None:
    told = "--outputs", yaml.safe_dump(OUTPUTS, default_flow_style=True).strip()
    prepared = "--preprocessing", yaml.safe_dump(PREPARED, default_flow_style=True).strip()
    result = cli("inspect", "net.py:build", *told, *prepared)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("layer ")]
    names = [line.split()[1] for line in lines]
    loaded = experiment.load(write(own, "network\\..*"))
    spec = load_model(loaded.model, loaded.data.preprocessing)
    assert names == api.capture(spec.module, example_of(spec)).layer_names


def test_a_name_without_its_region_is_told_the_whole_one(own: Path) -> None:
    """Before images are read: the folder that should hold them is empty."""
    loaded = experiment.load(write(own, "network\\..*"))
    spec = load_model(loaded.model, loaded.data.preprocessing)
    name = api.capture(spec.module, example_of(spec)).layer_names[0].removeprefix("network.")
    (own / "empty").mkdir()
    wrong = experiment.load(write(own, name))
    with pytest.raises(SubbyteError, match=r"variants\.own: unknown layer") as caught:
        set_up(wrong, (), Silent())
    assert rf"write 'network\.{name}'" in str(caught.value)
