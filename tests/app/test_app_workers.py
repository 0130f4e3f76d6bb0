"""Variants in several processes of one machine, and on a Ray cluster."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from subbyte.app.worker import serve
from subbyte.utils import cores

if TYPE_CHECKING:
    from .conftest import Cli, Own, Refusal

SUBBYTE = str(Path(sys.executable).with_name("subbyte"))
TIMEOUT = 300
VARIANTS = {"a": {"method": "range"}, "b": {"weights": 4, "method": "range"}}
# The first process that is one of several is killed as by the system that has no memory left.
KILLED = """\
import os
import signal


def build(classes=2):
    if "SUBBYTE_THREADS" in os.environ:
        try:
            open("killed", "x").close()
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def measured(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what depends on the time."""
    found: dict[str, Any] = json.loads(json.dumps(results))
    for entry in (found["float"], *found["variants"]):
        entry.pop("seconds", None)
        for own in entry["deployed"].values():
            own.pop("latency_ms")
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_costs_its_own_variant_alone(own: Own, cli: Cli) -> None:
    own.rewrite("\ndef build(classes=2):\n", KILLED)
    file = own.yaml(variants=VARIANTS, runtimes=["onnxruntime"])
    plain = cli("run", file, "--out", "plain", "--quiet")
    assert plain.exit_code == 0, plain.stderr
    result = cli("run", file, "--out", "out", "--workers", "2")
    assert result.exit_code == 1
    found = own.results()
    (lost,) = found["errors"]
    assert "killed by SIGKILL" in found["errors"][lost]
    (kept,) = found["variants"]
    assert {lost, kept["name"]} == {"a", "b"}
    assert f"{lost} is not finished: its process was killed" in result.stderr
    command = result.stderr.partition("this does what is missing: subbyte ")[2].split()
    again = cli(*command, "--workers", "2", "--quiet")
    assert again.exit_code == 0, again.stderr
    assert measured(own.results()) == measured(own.results("plain"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGINT is sent as a terminal would")
def test_an_interruption_ends_all_processes(own: Own) -> None:
    file, out = own.yaml(variants=VARIANTS), own.path / "out"
    command = [SUBBYTE, "run", str(file), "--out", str(out), "--workers", "2"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    until = time.monotonic() + TIMEOUT
    while not list(out.glob("variants/.*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert "interrupted; what is finished is kept" in stderr
    commands = [command_of(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [line for line in commands if str(out).encode() in line]
    assert list(out.rglob(".*")) == []  # each process tidied up


def command_of(path: Path) -> bytes:
    """The command line of a process, if it is still there when it is looked at."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_what_is_wrong_with_one_variant_stops_no_other(own: Own, cli: Cli) -> None:
    # That labels are missing is found when the method asks for them.
    method = {"name": "lapq", "targets": "labels"}
    (own.path / "unlabelled").mkdir()
    for i in range(4):
        own.draw(f"unlabelled/{i}.png", 0, 256, seed=i)
    data = {"calibration": "unlabelled", "evaluation": "pictures/val"}
    variants = {"a": {"method": method, "weights": 4}, "b": {"method": "range"}}
    result = cli("run", own.yaml(variants=variants, data=data), "--out", "out", "--workers", "2")
    assert result.exit_code == 1
    assert "a is not finished: " in result.stderr
    assert list(own.results()["errors"]) == ["a"]
    assert own.results()["missed"] == []
    assert [entry["name"] for entry in own.results()["variants"]] == ["b"]


def test_a_process_looks_at_no_variant_that_nobody_asks_for(
    own: Own, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of so few images a search is refused; nobody asks for it.
    variants = {**VARIANTS, "searched": {"search": {"max_drop": 1}}}
    file = own.yaml(variants=variants)
    assert cli("run", file, "--only", "a", "--out", "out", "--quiet").exit_code == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("b\n"))
    answers = io.StringIO()
    serve(own.path / "out", answers)
    assert answers.getvalue().splitlines()[-1] == "done"
    assert (own.path / "out/variants/b/variant.json").is_file()


@pytest.mark.whole
def test_a_cluster_gives_the_same_results(own: Own, cli: Cli) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("tensorboard")
    low = {"weights": 2, "activations": 2, "method": "range"}
    changes = {"model": {"name": "digits"}, "data": {"name": "digits", "evaluation_images": 200}}
    variants = {"a": {"method": "range"}, "b": low}
    log = {"tensorboard": "events"}
    file = own.yaml(variants=variants, runtimes=["onnxruntime"], log=log, **changes)
    assert cli("run", file, "--out", "plain", "--quiet").exit_code == 0
    result = cli("run", file, "--out", "out", "--ray", "local", "--json")
    assert result.exit_code == 0, result.stderr
    assert measured(json.loads(result.stdout)) == measured(own.results("plain"))

    def found(folder: str) -> dict[str, int]:
        files = [path for path in (own.path / folder / "variants").rglob("*") if path.is_file()]
        sizes = {path: path.stat().st_size for path in files if path.name != "variant.json"}
        return {str(path.relative_to(own.path / folder)): size for path, size in sizes.items()}

    assert found("out") == found("plain")
    assert any(name.startswith("variants/b/gallery/") for name in found("out"))
    logged = {path.name: sorted(x.name for x in path.iterdir() if x.is_dir()) for path in
              (own.path / "events/my").iterdir()}  # fmt: skip
    assert logged == {"plain": ["a", "b", "float"], "out": ["a", "b", "float"]}


@pytest.mark.whole
def test_what_a_search_on_a_cluster_has_measured_is_kept(own: Own, cli: Cli) -> None:
    pytest.importorskip("ray")
    search = {"max_drop": 2, "builds": 1, "weights": [4, 8], "time_limit": 1e-6}
    changes = {"model": {"name": "digits"}, "data": {"name": "digits"}}
    file = own.yaml(variants={"small": {"search": search, "method": "range"}}, **changes)
    result = cli("run", file, "--out", "out", "--ray", "local")
    assert result.exit_code == 3, result.stderr
    assert own.results()["missed"] == ["small"]
    assert len(list((own.path / "out/sensitivity").glob("*.json"))) == 1


@pytest.mark.whole
@pytest.mark.parametrize("where", [("--ray", "local"), ("--workers", "2")])
def test_a_search_runs_elsewhere(where: tuple[str, str], cli: Cli, tmp_path: Path) -> None:
    if where[0] == "--ray":
        pytest.importorskip("ray")
    asked = {"max_drop": 2, "builds": 1, "objective": "latency", "runtime": "onnxruntime"}
    experiment = {
        "model": {"name": "digits"},
        "data": {"name": "digits"},
        "runtimes": ["onnxruntime"],
        "variants": {"fast": {"search": asked, "method": "range"}},
    }
    file, out = tmp_path / "search.yaml", tmp_path / "out"
    file.write_text(json.dumps(experiment))
    result = cli("run", file, "--out", out, "--json", *where)
    assert result.exit_code == 0, result.stderr
    (variant,) = json.loads(result.stdout)["variants"]
    assert variant["search"]["confirmed"]["onnxruntime"]["images"] == 450
    assert (out / "variants/fast/frontier.json").is_file()


def test_what_cannot_run_elsewhere(refusal: Refusal) -> None:
    assert "nothing answers at the Ray address 127.0.0.1:1" in refusal(
        "run", "digits", "--ray", "127.0.0.1:1"
    )
    assert "--ray is 'cluster': give HOST:PORT" in refusal("run", "digits", "--ray", "cluster")
    assert "exclude each other" in refusal("run", "digits", "--ray", "local", "--workers", "2")


def test_processes_share_the_processors_and_do_not_spin() -> None:
    found = cores.sharing({"PATH": "here", "OMP_NUM_THREADS": "9"}, 10_000)
    assert found["PATH"] == "here"
    assert found["OMP_NUM_THREADS"] == found["SUBBYTE_THREADS"] == "1"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert cores.sharing({}, 1)["OMP_NUM_THREADS"] == str(cores.usable())
