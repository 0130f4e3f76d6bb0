"""The documentation's site is built without a warning, and reference pages are the code's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import subbyte
from subbyte import recipe
from subbyte.app.experiment import Experiment, builtin
from subbyte.numerics import ranges

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def page(site: Path, name: str) -> str:
    """A page's HTML."""
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    assert "<!-- make:" not in text
    return text


def test_every_public_name_is_in_the_api(site: Path) -> None:
    text = page(site, "reference/api")
    for name in subbyte.__all__:
        # Of the module `detection` its two classes are there.
        shown = {"detection": "detection.Outputs"}.get(name, name)
        assert f'id="subbyte.{shown}"' in text or name == "__version__", name


def test_every_field_rule_and_method_is_with_the_recipe(site: Path) -> None:
    text = page(site, "reference/recipe")
    names = [*subbyte.Recipe.model_fields, *ranges.names(), *recipe.method_names()]
    assert [name for name in names if name not in text] == []
    assert "<code>mse</code>" in text  # the default of a field


def test_every_key_of_an_experiment_is_there(site: Path) -> None:
    text = page(site, "reference/experiment")
    for name in (
        *Experiment.model_fields,
        *builtin(),
        "checkpoint_key",
        "skip_broken",
        "letterbox",
    ):
        assert f"<code>{name}</code>" in text, name


def test_every_command_and_option_is_there(site: Path) -> None:
    text = page(site, "reference/commands")
    for words in ("subbyte sensitivity", "--max-drop", "--no-postprocess", "--checkpoint-key"):
        assert words in text


def test_sections_of_the_contract_are_pages(site: Path) -> None:
    assert "images.npz" in page(site, "reference/files")
    assert "sqnr_db_worst" in page(site, "reference/results")
