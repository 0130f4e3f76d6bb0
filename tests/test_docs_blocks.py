"""Every block of Start and How to: commands and Python run, files are read, the rest compiles."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from docs_pages import PAGES, PREPARE, Block, blocks, masked, prepare_serve, run, steps
from subbyte.app.cli import app
from subbyte.bit_search.settings import read_recipe
from subbyte.data import DataConfig
from subbyte.models import ModelConfig

# Extending has a test of its own, tests/test_extending.py.
FOLLOWED = [page for page in PAGES if page != "howto/extend"]
# Blocks that are read and not run: the beginning of each, and why.
ONLY_READ = {
    "pip install uv": "installs packages",
    "subbyte run mine.yaml --ray auto": "needs a cluster",
    "cmake -B build": "is run where there is a compiler, below",
}
LANGUAGES = ("console", "python", "yaml", "text", "sh", "cpp", "cmake", "js")
ELSEWHERE = ("cpp", "cmake", "js")  # files that are compiled below


@pytest.mark.slow
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = blocks(page)
    for block in found:
        if block.title and block.language not in ELSEWHERE:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    PREPARE.get(page, lambda folder: None)(tmp_path)
    space: dict[str, Any] = {"__name__": page}
    for block in found:
        if block.language == "console":
            for command, expected in steps(block):
                printed = {masked(line) for line in run(command).splitlines()}
                assert {masked(line) for line in expected} <= printed, (command, printed)
        elif block.language == "python" and not block.title:
            exec(compile(block.text, page, "exec"), space)
            comments = re.findall(r"^print\(.*\)  # (.*)$|^# (.*)\n", block.text, re.M)
            printed = {masked(line) for line in capsys.readouterr().out.splitlines()}
            assert {masked("".join(said)) for said in comments} <= printed


@pytest.mark.parametrize("page", FOLLOWED)
def test_every_block_is_one_that_is_tested(page: str) -> None:
    fences = PAGES[page].read_text(encoding="utf-8").count("\n```") / 2
    found = blocks(page)
    assert len(found) == fences
    for block in found:
        assert block.language in LANGUAGES, block
        if block.language == "sh":
            assert any(block.text.startswith(begin) for begin in ONLY_READ), block.text
            read_commands(block)
        elif block.language == "yaml" and not block.title:
            read_yaml(block)


def read_commands(block: Block) -> None:
    """Check that the options of Subbyte's commands exist."""
    group: Any = typer.main.get_command(app)
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["subbyte"]:
            command = group.commands[words[1]]
            command.parse_args(click.Context(command), words[2:])


def read_yaml(block: Block) -> None:
    """Check the keys of a part of an experiment; `model` may stand there several times."""
    for part in re.split(r"^(?=\w)", block.text, flags=re.M):
        for key, value in (yaml.safe_load(part) or {}).items():
            if key == "model":
                ModelConfig(**value)
            elif key == "data":
                DataConfig(**value)
            else:
                assert key == "variants", key
                for fields in value.values():
                    read_recipe(fields)


def titled(page: str, title: str) -> Block:
    """The block of a page that is a file."""
    return next(block for block in blocks(page) if block.title == title)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_javascript_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "serve.mjs"
    file.write_text(titled("howto/serve", "serve.mjs").text, encoding="utf-8")
    checked = subprocess.run(["node", "--check", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(
    not Path(os.environ.get("ORT", ""), "include", "onnxruntime_cxx_api.h").is_file()
    or shutil.which("g++") is None,
    reason="$ORT names no folder with ONNX Runtime's headers, or g++ is not installed",
)
def test_the_program_for_onnx_runtime_compiles(tmp_path: Path) -> None:
    file = tmp_path / "serve.cpp"
    file.write_text(titled("howto/serve", "serve_onnxruntime.cpp").text, encoding="utf-8")
    include = f"-I{os.environ['ORT']}/include"
    command = ["g++", "-std=c++17", "-fsyntax-only", include, str(file)]
    compiled = subprocess.run(command, capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr


def no_compiler() -> bool:
    """Whether a program for OpenVINO cannot be compiled here."""
    try:
        import openvino
    except ImportError:
        return True
    config = Path(openvino.__file__).parent / "cmake" / "OpenVINOConfig.cmake"
    return not config.is_file() or not shutil.which("cmake") or not shutil.which("c++")


@pytest.mark.slow
@pytest.mark.skipif(no_compiler(), reason="cmake, a C++ compiler or OpenVINO is not installed")
def test_the_program_for_openvino_compiles_and_runs(tmp_path: Path) -> None:
    prepare_serve(tmp_path)
    for title in ("serve_openvino.cpp", "CMakeLists.txt"):
        (tmp_path / title).write_text(titled("howto/serve", title).text, encoding="utf-8")
    build = next(b for b in blocks("howto/serve") if b.text.startswith("cmake -B"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    made = subprocess.run(
        ["bash", "-ec", build.text],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    ran = subprocess.run(["build/serve_openvino"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout.strip() == expected_class(tmp_path / "model.onnx"), ran


def expected_class(path: Path) -> str:
    """The class of a black image, by ONNX Runtime in Python."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    image = np.zeros((1, 3, 64, 64), np.float32)
    return str(session.run(None, {"input": image})[0].argmax())
