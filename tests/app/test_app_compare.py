"""`subbyte compare`: two runs side by side, and the exit code of a gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

if TYPE_CHECKING:
    from .conftest import Cli, Refusal, Run

LOST = 20


def change(folder: Path, file: str, edit: Any) -> None:
    """Change the arrays of an npz, or the keys of a JSON file."""
    path = folder / file
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            content = dict(arrays)
        edit(content)
        np.savez_compressed(path, **content)
    else:
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def worse(digits: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, but w4a4 is wrong on 20 more images in ONNX Runtime, and its file smaller."""
    folder = tmp_path_factory.mktemp("worse") / "run"
    shutil.copytree(digits.folder, folder)

    def wrong(arrays: dict[str, Any]) -> None:
        right = np.flatnonzero(arrays["onnxruntime.top1"])
        arrays["onnxruntime.top1"][right[:LOST]] = False

    def entry(results: dict[str, Any]) -> None:
        found = next(entry for entry in results["variants"] if entry["name"] == "w4a4")
        found["deployed"]["onnxruntime"]["metrics"]["top1"] -= LOST / 899
        found["size_bytes"] //= 2

    change(folder, "variants/w4a4/images.npz", wrong)
    change(folder, "results.json", entry)
    return folder


def test_a_run_beside_itself_is_the_same(digits: Run, cli: Cli) -> None:
    result = cli("compare", digits.folder, digits.folder, "--max-drop", "0", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    tops = [row for row in found["rows"] if row["metric"] == "top1"]
    assert len(tops) == 3 * 3  # float and two variants, in the simulation and two runtimes
    assert {(row["change"], row["verdict"], row["images"]) for row in tops} == {(0, "same", 899)}
    assert not found["fell"]
    assert found["notes"] == []


def test_what_fell_is_named_and_ends_with_exit_code_1(digits: Run, worse: Path, cli: Cli) -> None:
    result = cli("compare", digits.folder, worse / "results.json", "--max-drop", "2", "--json")
    assert result.exit_code == 1
    points = 100 * LOST / 899
    assert result.stderr.startswith(f"top1 of w4a4 in onnxruntime fell by {points:.2f} points")
    found = json.loads(result.stdout)
    assert found["fell"]
    rows = {(r["variant"], r["run_in"], r["metric"]): r for r in found["rows"]}
    row = rows["w4a4", "onnxruntime", "top1"]
    assert row["change"] == pytest.approx(-LOST / 899)
    assert row["verdict"] == "worse"
    assert row["interval"][0] < row["change"] < row["interval"][1] < 0
    assert rows["w4a4", "", "size_bytes"]["change"] == pytest.approx(-0.5, abs=1e-3)
    assert rows["w8a8", "onnxruntime", "top1"]["verdict"] == "same"
    assert cli("compare", digits.folder, worse, "--max-drop", "2.3", "-q").exit_code == 0
    back = cli("compare", worse, digits.folder, "--max-drop", "0")
    assert back.exit_code == 0
    assert "better" in back.stdout


def test_runs_of_which_some_images_are_the_same(digits: Run, worse: Path, cli: Cli) -> None:
    other = worse.parent / "some"
    shutil.copytree(worse, other)

    def strange(arrays: dict[str, Any]) -> None:
        arrays["keys"][:99] += np.uint64(1)

    change(other, "float/images.npz", strange)
    result = cli("compare", digits.folder, other, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert {row["images"] for row in found["rows"] if row["metric"] == "top1"} == {800}
    assert "of the 800 images that both runs evaluated" in found["notes"][0]


def test_results_without_images_have_no_intervals(digits: Run, cli: Cli, tmp_path: Path) -> None:
    shutil.copy(digits.folder / "results.json", tmp_path / "old.json")
    result = cli("compare", tmp_path / "old.json", digits.folder, "--json", "--max-drop", "1")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert all(row["interval"] is None for row in found["rows"])
    assert "there are no intervals" in found["notes"][0]


def test_a_variant_that_is_gone_is_no_success_of_a_gate(
    digits: Run, worse: Path, cli: Cli, tmp_path: Path
) -> None:
    results = json.loads((digits.folder / "results.json").read_text())
    results["variants"] = [entry for entry in results["variants"] if entry["name"] != "w4a4"]
    (tmp_path / "few.json").write_text(json.dumps(results))
    result = cli("compare", digits.folder, tmp_path / "few.json", "--max-drop", "1", "-q")
    assert result.exit_code == 2
    assert "w4a4 is in the first run alone" in result.stderr
    assert cli("compare", tmp_path / "few.json", digits.folder, "--max-drop", "1").exit_code == 0
    chosen = "--only", "w8a8", "--max-drop", "1"
    assert cli("compare", digits.folder, tmp_path / "few.json", *chosen).exit_code == 0


def test_a_metric_that_is_gone_is_no_success_of_a_gate(
    digits: Run, cli: Cli, tmp_path: Path
) -> None:
    results = json.loads((digits.folder / "results.json").read_text())
    entry = next(entry for entry in results["variants"] if entry["name"] == "w4a4")
    entry["deployed"]["openvino"]["metrics"]["top1"] = None  # NaN, as results have it
    (tmp_path / "none.json").write_text(json.dumps(results))
    result = cli("compare", digits.folder, tmp_path / "none.json", "--max-drop", "1", "-q")
    assert result.exit_code == 2
    assert "w4a4: top1 in openvino is in the first run alone" in result.stderr


def test_refusals(digits: Run, refusal: Refusal, tmp_path: Path) -> None:
    run = digits.folder
    results = json.loads((run / "results.json").read_text())
    (tmp_path / "no.json").write_text("no")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "objects.json").write_text(json.dumps({**results, "task": "detection"}))
    (tmp_path / "none.json").write_text(json.dumps({**results, "variants": []}))
    assert "there is no run gone" in refusal("compare", run, "gone")
    assert "name the folder of a run with a finished" in refusal("compare", run, tmp_path)
    assert "no.json is not JSON" in refusal("compare", run, "no.json")
    assert "list.json has no task" in refusal("compare", run, "list.json")
    assert "the runs differ in task" in refusal("compare", run, "objects.json")
    assert "no variant in common" in refusal("compare", run, "none.json")
    assert "no variant w2a2" in refusal("compare", run, run, "--only", "w2a2")
    assert "max-drop is -1" in refusal("compare", run, run, "--max-drop=-1")


def test_the_workflow_of_the_examples_is_yaml_and_calls_what_there_is(cli: Cli) -> None:
    path = Path(__file__).parents[2] / "examples/ci.yaml"
    steps = yaml.safe_load(path.read_text())["jobs"]["measure"]["steps"]
    commands = [step["run"].split() for step in steps if "subbyte" in step.get("run", "")]
    assert ["subbyte", "compare", "runs/main", "runs/mine", "--max-drop", "0.5"] in commands
    for command in commands:
        if command[0] == "subbyte":
            assert cli(command[1], "--help").exit_code == 0
