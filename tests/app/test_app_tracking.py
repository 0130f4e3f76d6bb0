from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

VARIANTS = {
    "w4": {"weights": 4, "activations": 8, "method": {"name": "adaround", "steps": 20}},
    "w8a8": {"method": "range"},
}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → steps and values, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def texts(folder: Path) -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    (tag,) = events.Tags()["tensors"]
    return str(events.Tensors(tag)[0].tensor_proto.string_val[0].decode())


@pytest.mark.slow
def test_tensorboard_has_curves_figures_and_a_table(own: Any, cli: Callable[..., Any]) -> None:
    pytest.importorskip("tensorboard")
    asked = own.yaml(variants=VARIANTS, log={"tensorboard": "events"}, name="mine")
    result = cli("run", asked, "--out", own.path / "out", "--quiet")
    assert result.exit_code == 0, result.stderr
    root = own.path / "events/mine/out"
    found = scalars(root / "w4")
    results = own.results()
    entry = results["variants"][0]
    assert found["measured/simulation/top1"] == [(0, pytest.approx(entry["metrics"]["top1"]))]
    assert found["measured/sqnr_db"] == [(0, pytest.approx(entry["sqnr_db"], rel=1e-6))]
    curves = json.loads((own.path / "out/variants/w4/learning.json").read_text())["curves"]
    titles = {f"learning/{curve['stage']}/{curve['name']}" for curve in curves}
    assert titles == {tag for tag in found if tag.startswith("learning/")}
    assert all(len(found[title]) == 20 for title in titles)
    assert scalars(root / "float")["measured/simulation/top1"] == [(0, 1.0)]
    table = texts(root)
    assert "| w4 | simulation |" in table
    assert f"{entry['metrics']['top1']:.4f}" in table


@pytest.mark.slow
@pytest.mark.parametrize("store", ["folder", "sqlite"])
def test_mlflow_has_a_run_for_each_variant(
    store: str, own: Any, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    if store == "sqlite" and find_spec("sqlalchemy") is None:
        pytest.skip("sqlalchemy is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = {"folder": f"file://{own.path}/mlruns", "sqlite": f"sqlite:///{own.path}/runs.db"}[store]
    asked = own.yaml(variants=VARIANTS, log={"mlflow": uri}, name="mine")
    result = cli("run", asked, "--out", own.path / "out", "--quiet")
    assert result.exit_code == 0, result.stderr
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("mine")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"float", "w4", "w8a8"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    entries = {entry["name"]: entry for entry in own.results()["variants"]}
    for name, entry in entries.items():
        measured = runs[name].data.metrics
        assert measured["simulation/top1"] == entry["metrics"]["top1"]
        assert measured["size_bytes"] == entry["size_bytes"]
        assert runs[name].data.params["weights"] == str(entry["weights"])
    curves = [key for key in runs["w4"].data.metrics if key.startswith("learning/")]
    history = client.get_metric_history(runs["w4"].info.run_id, curves[0])
    assert sorted(point.step for point in history) == list(range(20))
    assert "| w4 | simulation |" in experiment.tags["mlflow.note.content"]


@pytest.mark.parametrize("key", ["tensorboard", "mlflow"])
def test_what_is_not_installed_is_found_before_work_begins(
    key: str, own: Any, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, key, None)
    result = cli("run", own.yaml(log={key: "there"}), "--out", own.path / "out")
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        f"log.{key} is set, and {key} is not installed: pip install 'subbyte[{key}]'"
    )
    assert not (own.path / "out").exists()


@pytest.mark.slow
def test_a_store_that_does_not_exist_is_found_before_work_begins(
    own: Any, cli: Callable[..., Any]
) -> None:
    pytest.importorskip("mlflow")
    result = cli("run", own.yaml(log={"mlflow": "nowhere://x"}), "--out", own.path / "out")
    assert result.exit_code == 2
    assert "log.mlflow nowhere://x cannot be used" in result.stderr
    assert not (own.path / "out").exists()


def test_another_key_is_refused(own: Any, cli: Callable[..., Any]) -> None:
    result = cli("run", own.yaml(log={"tensorbord": "events"}), "--out", own.path / "out")
    assert result.exit_code == 2
    assert "tensorbord" in result.stderr


@pytest.mark.slow
def test_a_run_goes_on_with_another_log(own: Any, cli: Callable[..., Any]) -> None:
    pytest.importorskip("tensorboard")
    out = own.path / "out"
    assert cli("run", own.yaml(), "--out", out, "--quiet").exit_code == 0
    asked = own.yaml(variants={"w8a8": {}, "w4": {"weights": 4, "method": "range"}})
    asked.write_text(asked.read_text() + "log: {tensorboard: events}\ndiagnose: false\n")
    result = cli("run", asked, "--out", out, "--resume", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert [path.name for path in (own.path / "events/my/out").iterdir() if path.is_dir()] == ["w4"]
    assert (out / "variants/w8a8/diagnosis.json").is_file()
    assert not (out / "variants/w4/diagnosis.json").exists()
