"""The command as a process of its own: exit codes, streams, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from .conftest import Cli, Own

SUBBYTE = str(Path(sys.executable).with_name("subbyte"))
TIMEOUT = 300


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [SUBBYTE, *(str(argument) for argument in arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.slow
def test_json_on_a_clean_stdout_and_nothing_on_stderr(own: Own) -> None:
    file = own.yaml(runtimes=["onnxruntime", "openvino"])
    process = start("run", file, "--out", "out", "--json")
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stderr) == (0, "")
    assert json.loads(stdout) == own.results()


@pytest.mark.slow
def test_signs_that_a_terminal_lacks_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"metrics": {"top1": 0.5}, "images": 8, "size_bytes": 1000, "deployed": {}}
    results = {"task": "classification", "primary_metric": "top1", "float": entry}
    (tmp_path / "r.json").write_text(json.dumps({**results, "variants": [{"name": "a", **entry}]}))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    process = start("compare", tmp_path / "r.json", tmp_path / "r.json")
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stderr) == (0, "")
    assert "top1" in stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes end otherwise")
def test_who_reads_may_go_early() -> None:
    process = start("models", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait(TIMEOUT)


@pytest.mark.slow
def test_bad_input_is_one_line_on_stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = start("run", "digts")
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stdout) == (2, "")
    seeds = "cifar10, resnet18, resnet18-lapq, resnet50, ssd-checkpoint, ssd-hub, ssd-lapq-voc, "
    known = ", ".join(
        [
            "digit-scenes",
            "digits",
            *(f"seeds/{seed}" for seed in (seeds + "ssd300-nvidia").split(", ")),
        ]
    )
    assert stderr == f"unknown experiment 'digts': did you mean 'digits'? (known: {known})\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as a terminal would")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_an_interruption_keeps_what_is_finished_and_says_how_to_go_on(
    own: Own, cli: Cli, number: signal.Signals
) -> None:
    out, variants = own.path / "out", own.path / "out/variants"
    arguments = ["run", own.yaml(variants={"a": {}, "b": {"weights": 4}}), "--out", out]
    process = start(*arguments)
    until = time.monotonic() + TIMEOUT
    # While a variant is under way, the name of its folder begins with a dot. Writing its file takes
    # long enough to be caught at it.
    while not list(variants.glob(".b.*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stdout) == (130, "")
    where, said = stderr.splitlines()
    assert where == f"results in {out}"
    assert said.startswith(f"interrupted; what is finished is kept in {out}")
    command = said.partition("this goes on: subbyte ")[2].split()
    assert [path.name for path in variants.iterdir()] == ["a"]
    assert list(out.rglob(".*")) == []
    assert names(out) == ["a"]

    finished = out / "float", variants / "a"
    before = [contents(folder) for folder in finished]
    result = cli(*command, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert [contents(folder) for folder in finished] == before
    assert names(out) == ["a", "b"]


def names(out: Path) -> list[str]:
    """The variants of which the results tell."""
    return [entry["name"] for entry in json.loads((out / "results.json").read_text())["variants"]]


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as a terminal would")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_not_lost_where_python_drops_exceptions(
    own: Own, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.onnx.export

    def interrupted(*arguments: Any, **options: Any) -> Any:
        dying = Dying()
        watch = weakref.ref(dying, lambda _: signal.raise_signal(signal.SIGINT))
        del dying
        assert watch() is None
        return export(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", interrupted)
    result = cli("run", own.yaml(variants={"a": {}, "b": {}}), "--out", "out")
    assert result.exit_code == 130
    assert not (own.path / "out/variants/b").exists()


class Dying:
    """Something that a weakref can watch."""
