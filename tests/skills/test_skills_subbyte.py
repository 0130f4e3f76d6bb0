"""The skill for coding agents: its commands and its code run, and the keys it names are there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from subbyte.app.cli import app

SKILL = Path(__file__).parents[2] / "skills/subbyte/SKILL.md"
TEXT = SKILL.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fenced = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", TEXT, re.M | re.S)
    return [re.sub(rf"^{indent}", "", code, flags=re.M) for indent, code in fenced]


def test_its_head_says_when_it_is_used() -> None:
    _, head, body = TEXT.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields["name"] == SKILL.parent.name
    assert "Use it when" in fields["description"]
    assert len(fields["description"]) < 1024
    assert len(body.splitlines()) < 150


@pytest.mark.slow
def test_its_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in blocks("yaml"):
        (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    commands = [line for code in blocks("bash") for line in code.splitlines() if line]
    assert {line.split()[1] for line in commands} >= {"run", "compare", "quantize", "evaluate"}
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "subbyte"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}: {result.stderr}"
    for code in blocks("python"):
        exec(compile(code, str(SKILL), "exec"), {})
    results = json.loads((tmp_path / "run/results.json").read_text())
    variant = results["variants"][0]
    known = {*results, *results["float"], *variant, *variant["deployed"]["openvino"]}
    read = TEXT.split("## 3.")[1].split("## 4.")[0]
    named = {name for name in re.findall(r"`([a-z_0-9]+)`", read) if "_" in name}
    assert named <= known
    assert (tmp_path / "mended/variants/w4a8/model.onnx").is_file()
