"""A search on the bundled digits, from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from subbyte.app.cli import app

pytestmark = pytest.mark.slow

DATA = {"name": "digits", "calibration_images": 96, "evaluation_images": 240}
SEARCH = {"max_drop": 2.0, "weights": [2, 4, 8], "builds": 2}


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("search")

    def made(name: str, variants: dict[str, Any], **keys: Any) -> Path:
        path = folder / f"{name}.yaml"
        whole = {"model": {"name": "digits"}, "data": DATA, "variants": variants, **keys}
        path.write_text(yaml.safe_dump(whole))
        return path

    return made


def cli(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def variant(**search: Any) -> dict[str, Any]:
    return {"method": {"name": "subbyte", "steps": 0}, "search": {**SEARCH, **search}}


@pytest.fixture(scope="module")
def searched(write: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "out"
    path = write("found", {"small": variant()}, runtimes=["onnxruntime"])
    cli("run", path, "--out", out, "--quiet")
    return out


def test_what_is_found_is_a_variant_with_its_proof(searched: Path) -> None:
    folder = searched / "variants" / "small"
    entry = json.loads((folder / "variant.json").read_text())
    found = entry["search"]
    assert found["met"]
    assert found["searching_images"] == 120
    confirmed = found["confirmed"]["onnxruntime"]
    assert confirmed["images"] == 120
    assert confirmed["lost"] <= confirmed["budget"] == pytest.approx(0.02)
    assert confirmed["interval"][0] <= confirmed["lost"] <= confirmed["interval"][1]
    assert any("points lost" in note and "asked for 2" in note for note in entry["notes"])
    assert (folder / "model.onnx").is_file()
    assert (folder / "layers.csv").is_file()


def test_the_frontier_has_every_configuration_that_was_measured(searched: Path) -> None:
    frontier = json.loads((searched / "variants" / "small" / "frontier.json").read_text())
    assert 1 <= len(frontier) <= 2
    assert sum(one["chosen"] for one in frontier) == 1
    assert all(set(one["weights"].values()) <= {2, 4, 8, None} for one in frontier)
    costs = [one["cost"] for one in frontier]
    assert costs == sorted(costs)


def test_the_sensitivities_are_there_and_fall_with_the_bits(searched: Path) -> None:
    with (searched / "variants" / "small" / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    layers = {row["layer"] for row in rows}
    assert "block1.conv1" in layers
    for layer in layers:
        losses = [float(r["loss"]) for r in rows if r["layer"] == layer and r["role"] == "weight"]
        assert losses == sorted(losses, reverse=True)
        assert min(losses) >= 0


def test_the_recipe_gives_the_same_file_without_a_search(
    searched: Path, write: Any, tmp_path: Path
) -> None:
    folder = searched / "variants" / "small"
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert "search" not in recipe
    again = write("again", {"small": recipe}, runtimes=["onnxruntime"])
    cli("run", str(again), "--out", str(tmp_path / "again"), "--quiet")
    other = tmp_path / "again" / "variants" / "small"
    for first, second in zip(
        onnx.load(folder / "model.onnx").graph.initializer,
        onnx.load(other / "model.onnx").graph.initializer,
        strict=True,
    ):
        assert first.name == second.name
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(first), onnx.numpy_helper.to_array(second)
        )


def test_a_budget_that_images_cannot_decide_is_exit_3_and_keeps_what_was_found(
    write: Any, tmp_path: Path
) -> None:
    path = write("missed", {"small": variant(max_drop=0.1, confidence=0.99, builds=1)}, runtimes=[])
    result = cli("run", str(path), "--out", str(tmp_path / "out"), code=3)
    assert "would decide" in result.stderr or "missed by" in result.stderr
    entry = json.loads((tmp_path / "out" / "variants" / "small" / "variant.json").read_text())
    assert not entry["search"]["met"]
    assert "simulation" in entry["search"]["confirmed"]


def test_a_time_limit_that_passes_before_anything_is_built_is_exit_3(
    write: Any, tmp_path: Path
) -> None:
    path = write("late", {"small": variant(time_limit=1e-6)}, runtimes=[])
    out = tmp_path / "out"
    result = cli("run", str(path), "--out", str(out), code=3)
    assert "passed before any configuration was built" in result.stderr
    assert len(list((out / "sensitivity").glob("*.json"))) == 1


def test_in_processes_a_time_limit_that_passes_is_exit_3_as_well(
    write: Any, tmp_path: Path
) -> None:
    late, out = variant(time_limit=1e-6), tmp_path / "out"
    path = write("late", {"one": late, "two": late}, runtimes=[])
    result = cli("run", str(path), "--out", str(out), "--workers", "2", "--quiet", code=3)
    assert "two is not finished: variants.two: time_limit of" in result.stderr
    results = json.loads((out / "results.json").read_text())
    assert sorted(results["errors"]) == sorted(results["missed"]) == ["one", "two"]
    assert (out / "sensitivity").is_dir()


def test_max_drop_on_the_command_line_adds_a_variant(write: Any, tmp_path: Path) -> None:
    path = write("plain", {"other": {}}, runtimes=[])
    cli(
        "run",
        str(path),
        "--max-drop",
        "3",
        "--set",
        "variants.small.search.weights=[4]",
        "--set",
        "variants.small.method=range",
        "--set",
        "variants.small.search.builds=1",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [entry["name"] for entry in results["variants"]] == ["small"]
    assert results["variants"][0]["search"]["max_drop"] == 3


def test_pins_are_kept(write: Any, tmp_path: Path) -> None:
    pinned = {**variant(builds=1, max_drop=5), "overrides": {r"block1\..*": {"weights": 5}}}
    path = write("pinned", {"small": pinned}, runtimes=[])
    cli("run", str(path), "--out", str(tmp_path / "out"), "--quiet")
    folder = tmp_path / "out" / "variants" / "small"
    with (folder / "layers.csv").open() as file:
        bits = {r["layer"]: r["bits"] for r in csv.DictReader(file) if r["role"] == "weight"}
    assert bits["block1.conv1"] == bits["block1.conv2"] == "5"


def test_sensitivity_prints_a_table_and_which_layers_to_protect(tmp_path: Path) -> None:
    out = tmp_path / "digits.csv"
    result = cli(
        "sensitivity",
        "digits",
        "--calibration",
        "digits",
        "--images",
        "64",
        "--widths",
        "2,8",
        "--out",
        str(out),
    )
    assert "protect" in result.stdout
    assert "block1.conv1" in result.stdout
    with out.open() as file:
        assert {row["bits"] for row in csv.DictReader(file) if row["role"] == "weight"} == {
            "2",
            "8",
        }
