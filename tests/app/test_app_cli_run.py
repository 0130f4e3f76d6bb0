from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from processor import exact_sums
from subbyte.app import experiment, runner
from subbyte.data.digits import digits_split
from subbyte.models import build
from subbyte.utils.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli, Own, Run

T = TypeVar("T")
EVERY = ["float", "w8a8", "w4a4"]
# Parameters of the layers that are neither first nor last, from the network's definition.
INNER_WEIGHTS = 9 * (
    2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64  # 3×3
) + (16 * 32 + 32 * 64)  # the 1×1 of two shortcuts


def evaluation_inputs() -> np.ndarray:
    """The evaluation half as the model wants it: (899, 1, 8, 8), standardized."""
    images = digits_split()[2].astype(np.float32) / 255
    return ((images - 0.305) / 0.376).astype(np.float32)[:, None]


def run_onnx(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"input": inputs})[0]
    return logits


def top(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(1).mean())


def test_the_folder_holds_what_was_promised(digits: Run) -> None:
    names = {p.relative_to(digits.folder).as_posix() for p in digits.folder.rglob("*")}
    promised = {"experiment.yaml", "environment.json", "run.log", "results.json"}
    for name in ("w8a8", "w4a4"):
        files = ("variant.json", "model.onnx", "layers.csv")
        promised |= {f"variants/{name}/{file}" for file in files}
    assert names >= promised
    assert {name for name in names if name.count("/") == 1 and name.startswith("variants")} == {
        "variants/w8a8",
        "variants/w4a4",
    }
    environment = json.loads((digits.folder / "environment.json").read_text())
    assert environment["packages"]["onnxruntime"] == onnxruntime.__version__
    assert environment["subbyte"] == metadata.version("subbyte")
    log = (digits.folder / "run.log").read_text()
    assert "variant w8a8" in log
    assert "Traceback" not in log


def test_results_have_every_promised_key(digits: Run) -> None:
    results = digits.results
    said = {key: results[key] for key in ("schema", "experiment", "model", "task")}
    assert said == {
        "schema": 1,
        "experiment": "digits",
        "model": "digits",
        "task": "classification",
    }
    assert results["primary_metric"] == "top1"
    assert results["calibration_images"] == 32
    assert [variant["name"] for variant in results["variants"]] == ["w8a8", "w4a4"]
    for variant, bits in zip(results["variants"], (8, 4), strict=True):
        assert (variant["weights"], variant["activations"]) == (bits, bits)
        assert isinstance(variant["method"], str)
        assert variant["seconds"] > 0
        assert 0 <= variant["agreement_with_float"] <= 1
    for name in EVERY:
        entry = digits.entry(name)
        assert set(entry["deployed"]) == {"onnxruntime", "openvino"}
        for measured in (entry, *entry["deployed"].values()):
            assert measured["images"] == 899
            assert set(measured["metrics"]) == {"top1", "top5"}
            assert 0.9 < measured["metrics"]["top1"] <= measured["metrics"]["top5"] <= 1
        for deployed in entry["deployed"].values():
            assert 0 < deployed["latency_ms"] < 1000
            assert 0 <= deployed["agreement"] <= 1
            assert deployed["max_abs_diff"] >= 0
            layers = 0 if name == "float" else 10
            assert (deployed["int8_ops"], deployed["int8_candidates"]) == (layers, layers)


def test_a_variant_file_says_what_results_say(digits: Run) -> None:
    for name in ("w8a8", "w4a4"):
        text = (digits.folder / "variants" / name / "variant.json").read_text()
        assert json.loads(text) == digits.entry(name)


@pytest.mark.parametrize("name", EVERY)
def test_metrics_are_those_of_the_file(digits: Run, name: str) -> None:
    labels = digits_split()[3]
    logits = run_onnx(digits.model(name), evaluation_inputs())
    entry = digits.entry(name)
    deployed = entry["deployed"]["onnxruntime"]
    assert deployed["metrics"] == {"top1": top(logits, labels, 1), "top5": top(logits, labels, 5)}
    # Simulation and runtime may differ on no more images than they say.
    for other in entry["deployed"].values():
        assert abs(other["simulated"]["top1"] - other["metrics"]["top1"]) <= 1 - other["agreement"]


@exact_sums
def test_float_and_its_agreement_are_the_models_own(digits: Run) -> None:
    inputs = evaluation_inputs()
    logits = build("digits")(torch.from_numpy(inputs)).detach().numpy()
    entry = digits.entry("float")
    assert entry["metrics"]["top1"] == top(logits, digits_split()[3], 1)
    assert entry["deployed"]["onnxruntime"]["agreement"] == 1
    assert entry["deployed"]["onnxruntime"]["max_abs_diff"] < 1e-4
    for name in ("w8a8", "w4a4"):
        variant = digits.entry(name)
        own = run_onnx(digits.model(name), inputs)
        agreement = float((own.argmax(1) == logits.argmax(1)).mean())
        slack = 1 - variant["deployed"]["onnxruntime"]["agreement"]
        assert abs(variant["agreement_with_float"] - agreement) <= slack + 1e-12
        noise = np.square(own.astype(np.float64) - logits).sum()
        sqnr = 10 * np.log10(np.square(logits.astype(np.float64)).sum() / noise)
        assert variant["sqnr_db"] == pytest.approx(sqnr, abs=0.1)


def test_sizes_are_those_of_the_files(digits: Run) -> None:
    for name in EVERY:
        assert digits.entry(name)["size_bytes"] == digits.model(name).stat().st_size
    w8a8, w4a4 = digits.entry("w8a8"), digits.entry("w4a4")
    assert w8a8["packed_bytes"] == w8a8["size_bytes"]
    # At 4 bits the inner weights take half a byte less each; the first and last layer keep 8.
    assert abs(w4a4["packed_bytes"] - (w8a8["size_bytes"] - INNER_WEIGHTS // 2)) < 1000
    assert 0 < w4a4["size_bytes"] - w4a4["packed_bytes"] < 10_000


def test_layers_csv_has_the_bits_that_were_asked_for(digits: Run) -> None:
    with (digits.folder / "variants/w4a4/layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    bits = {row["layer"]: int(row["bits"]) for row in rows if row["role"] == "weight"}
    assert len(bits) == 10
    assert (bits.pop("conv1"), bits.pop("linear")) == (8, 8)
    assert set(bits.values()) == {4}


def test_the_table_shows_float_and_every_variant_in_every_runtime(digits: Run) -> None:
    lines = digits.stdout.splitlines()
    for name in EVERY:
        start = next(i for i, line in enumerate(lines) if line.startswith(f"│ {name} "))
        kinds = [line.split("│")[2].strip() for line in lines[start : start + 3]]
        assert kinds == ["simulation", "onnxruntime", "openvino"]
        assert f"{100 * digits.entry(name)['metrics']['top1']:.2f}" in lines[start]
    assert lines[-1] == f"{digits.folder}/results.json"


def test_json_is_all_that_is_printed(own: Own, cli: Cli) -> None:
    result = cli("run", own.yaml(), "--out", "out", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == own.results()


def test_settings_take_the_place_of_what_the_file_says(own: Own, cli: Cli) -> None:
    settings = [
        "variants.w8a8.weights=4",
        "variants.new={activations: 6}",
        "data.evaluation_images=5",
        "seed=3",
    ]
    result = cli("run", own.yaml(), *(a for s in settings for a in ("--set", s)), "--out", "out")
    assert result.exit_code == 0, result.stderr
    results = own.results()
    bits = [(v["name"], v["weights"], v["activations"]) for v in results["variants"]]
    assert bits == [("w8a8", 4, 8), ("new", 8, 6)]
    assert results["float"]["images"] == 5
    written = yaml.safe_load((own.path / "out/experiment.yaml").read_text())
    assert written["variants"]["new"]["seed"] == written["seed"] == 3


@pytest.mark.slow
def test_a_run_is_resumed_and_keeps_what_is_finished(own: Own, cli: Cli) -> None:
    file = own.yaml(variants={"a": {}, "b": {"weights": 4}})
    result = cli("run", file, "--only", "a")
    assert result.exit_code == 0, result.stderr
    (folder,) = (own.path / "runs" / "my").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}", folder.name)
    assert result.stdout.splitlines()[-1] == f"runs/my/{folder.name}/results.json"
    finished = [p for part in ("float", "variants/a") for p in (folder / part).iterdir()]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in finished}
    assert cli("run", file, "--resume", "--quiet").exit_code == 0
    assert list((own.path / "runs" / "my").iterdir()) == [folder]
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in finished}
    results = own.results(str(folder))
    assert [variant["name"] for variant in results["variants"]] == ["a", "b"]


class Watching(Silent):
    """A `Progress` that looks at a folder at each step."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for item in items:
            self.look()
            yield item

    def working(self, description: str) -> AbstractContextManager[object]:
        self.look()
        return super().working(description)


@pytest.mark.slow
def test_a_fault_of_our_own_is_logged_and_costs_only_its_variant(own: Own, cli: Cli) -> None:
    out = own.path / "out"

    def broken() -> None:
        # The file is there, and the variant is not yet finished.
        if list(out.glob("variants/.bad.*/model.onnx")):
            raise RuntimeError("a screw came loose")

    file = own.yaml(variants={"good": {}, "bad": {"weights": 4}})
    with pytest.raises(RuntimeError, match="a screw came loose"):
        runner.run(experiment.load(str(file)), out, progress=Watching(broken))
    log = (out / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "RuntimeError: a screw came loose" in log
    assert [path.name for path in (out / "variants").iterdir()] == ["good"]
    assert [variant["name"] for variant in own.results()["variants"]] == ["good"]
    assert cli("run", file, "--out", "out", "--resume").exit_code == 0
    assert [v["name"] for v in own.results()["variants"]] == ["good", "bad"]


def test_a_fault_of_our_own_is_reported(
    own: Own, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a screw came loose")

    monkeypatch.setattr(runner, "run", broken)
    result = cli("run", own.yaml())
    assert (result.exit_code, result.stdout) == (1, "")
    assert "please report it" in result.stderr
    assert "RuntimeError: a screw came loose" in result.stderr


@pytest.mark.slow
def test_a_run_interrupted_in_a_method_goes_on_behind_the_last_finished_block(own: Own) -> None:
    method = {"name": "qdrop", "steps": 10}
    chosen = experiment.load(str(own.yaml(variants={"a": {"weights": 3, "method": method}})))
    whole, out = own.path / "whole", own.path / "out"
    runner.run(chosen, whole)

    def kept() -> dict[str, int]:
        """The blocks that are finished in a variant that is not, and when each was written."""
        return {path.name: path.stat().st_mtime_ns for path in (out / "unfinished/a").glob("*")}

    def interrupted() -> None:
        if kept():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(chosen, out, progress=Watching(interrupted))
    first, seen = kept(), list[dict[str, int]]()
    assert first
    runner.run(chosen, out, resume=True, progress=Watching(lambda: seen.append(kept())))
    # What was finished is not written again, and more comes to it.
    assert all(first.items() <= later.items() for later in seen if later)
    assert max(map(len, seen)) > len(first)
    assert not (out / "unfinished").exists()
    for name in ("variants/a/model.onnx", "variants/a/layers.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
