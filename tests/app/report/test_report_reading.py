"""`subbyte report`: of which folders a page is made, and what it says of a run that broke off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..conftest import Cli, Refusal, Run

SCRIPT = """
import sys
from typer.testing import CliRunner
from subbyte.app.cli import app

result = CliRunner().invoke(app, ["report", *sys.argv[1:]])
assert result.exit_code == 0, result.stderr
print([name for name in ("torch", "onnx", "onnxruntime", "openvino") if name in sys.modules])
"""


@pytest.fixture
def copy(digits: Run, tmp_path: Path) -> Path:
    """The run's folder, to be changed."""
    return Path(shutil.copytree(digits.folder, tmp_path / "run"))


def test_a_run_ends_with_its_page(digits: Run) -> None:
    page = (digits.folder / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert f"{digits.folder}/report.html" in digits.stdout


def test_the_page_is_made_again_without_pytorch_and_opened(digits: Run, tmp_path: Path) -> None:
    out, browser = tmp_path / "again.html", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/opened\n')
    browser.chmod(0o755)
    command = [sys.executable, "-c", SCRIPT, str(digits.folder), "--out", str(out), "--open"]
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert finished.stdout == "[]\n"
    assert (tmp_path / "opened").read_text().strip() == out.as_uri()
    assert out.read_text() == (digits.folder / "report.html").read_text()


def test_a_run_without_a_variant_says_which(cli: Cli, copy: Path) -> None:
    shutil.rmtree(copy / "variants" / "w4a4")
    (copy / "unfinished" / "w4a4").mkdir(parents=True)
    assert cli("report", copy).stdout == f"{copy}/report.html\n"
    page = (copy / "report.html").read_text()
    assert "Variant w4a4 is not finished; what its method had found is kept." in page
    assert "Not run: w4a8, w2a4." in page
    assert f"subbyte run {copy}/experiment.yaml --out {copy} --resume" in page


def test_a_run_that_broke_off_before_anything_was_measured_has_a_page(cli: Cli, copy: Path) -> None:
    for name in ("float", "variants"):
        shutil.rmtree(copy / name)
    (copy / "results.json").unlink()
    assert cli("report", copy).exit_code == 0
    page = (copy / "report.html").read_text()
    assert "The float model was not measured: the run broke off before that." in page
    assert "Not run: w8a8, w4a8, w4a4, w2a4." in page


def test_a_run_of_an_older_version_has_a_page(cli: Cli, copy: Path) -> None:
    """Without what is recorded for the page alone, sentences say what is missing."""
    (copy / "float/classes.json").unlink()
    for entry in ("float", "variants/w8a8", "variants/w4a4"):
        (copy / entry / "images.npz").unlink()
    for variant in (copy / "variants").iterdir():
        shutil.rmtree(variant / "gallery", ignore_errors=True)
        (variant / "gallery.json").unlink()
        entry = json.loads((variant / "variant.json").read_text())
        for its in (entry, *entry["deployed"].values()):
            del its["against_float"]
        (variant / "variant.json").write_text(json.dumps(entry))
    assert cli("report", copy).exit_code == 0
    assert 'id="classes"' not in (copy / "report.html").read_text()


def test_what_came_to_nothing_is_said(cli: Cli, copy: Path) -> None:
    results = json.loads((copy / "results.json").read_text())
    results["errors"] = {"w2a4": "its process was killed by SIGKILL"}
    (copy / "results.json").write_text(json.dumps(results))
    cli("report", copy)
    page = (copy / "report.html").read_text()
    assert "Variant w2a4 came to nothing: its process was killed by SIGKILL." in page


def test_runs_side_by_side_are_told_apart_by_their_folders(
    cli: Cli, digits: Run, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = shutil.copytree(copy, tmp_path / "other" / "run")
    assert cli("report", copy, other).stdout == "report.html\n"
    page = (tmp_path / "report.html").read_text()
    assert f"<td>{tmp_path.name}/run</td>" in page
    assert "<td>other/run</td>" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone"], "there is no folder gone: name the folder of a run"),
        (["."], ". holds no run, for there is no experiment.yaml: name a run's folder"),
    ],
)
def test_what_is_no_run_is_refused(refusal: Refusal, arguments: list[str], says: str) -> None:
    assert refusal("report", *arguments).strip() == says


def test_files_that_cannot_be_read_are_refused(refusal: Refusal, copy: Path) -> None:
    (copy / "results.json").write_text('{"task": ')
    assert f"{copy}/results.json is not JSON" in refusal("report", copy)
    (copy / "experiment.yaml").write_text("[1, 2]")
    assert "is not an experiment with variants" in refusal("report", copy)
    (copy / "experiment.yaml").write_text("{1: ")
    assert "is not YAML" in refusal("report", copy)


def test_a_page_that_cannot_be_written_is_refused(refusal: Refusal, copy: Path) -> None:
    says = refusal("report", copy, "--out", copy)
    assert says.strip() == f"{copy} is a folder: name a file to write"
    under = copy / "experiment.yaml" / "page.html"
    assert "is or lies under a file" in refusal("report", copy, "--out", under)


def test_runs_of_different_tasks_and_a_run_named_twice_are_refused(
    refusal: Refusal, digits: Run, copy: Path
) -> None:
    results = json.loads((copy / "results.json").read_text())
    results |= {"task": "detection", "primary_metric": "AP"}
    (copy / "results.json").write_text(json.dumps(results))
    says = refusal("report", digits.folder, copy)
    assert "the runs differ in their task, classification (top1), detection (AP)" in says
    assert "is named twice" in refusal("report", copy, copy)
