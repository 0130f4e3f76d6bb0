"""TensorBoard and MLflow: curves while methods learn, and what was measured in the end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from subbyte.app.curves import Recorder
from subbyte.errors import SubbyteError
from subbyte.recipe import Recipe
from subbyte.utils import files

NOT_FOR_NAMES = re.compile(r"[^\w\-. /]")  # what MLflow does not take in names
LONGEST = 500  # characters of a value of MLflow's


class LogConfig(BaseModel):
    """Where a run is logged besides its folder.

    Attributes:
        tensorboard: A folder, below which each variant gets one.
        mlflow: The URI of a tracking server, a folder or a data base, as `sqlite:///runs.db`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensorboard: Path | None = None
    mlflow: str | None = None


class Tracker(Protocol):
    """Where something is logged of one variant."""

    def points(self, title: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Take some points of a curve.

        Args:
            title: Of the curve.
            steps: Numbers of steps.
            values: The loss at each.
        """
        ...

    def metrics(self, values: Mapping[str, float]) -> None:
        """Take what was measured."""
        ...


@dataclass(frozen=True)
class Observed:
    """A variant whose losses are recorded.

    Attributes:
        recorder: Of its losses.
        trackers: Where it is logged.
    """

    recorder: Recorder
    trackers: Sequence[Tracker]

    def measured(self, entry: Mapping[str, Any]) -> None:
        """Log the numbers of an entry of the results."""
        for tracker in self.trackers:
            tracker.metrics(numbers_of(entry))


def check(config: LogConfig) -> None:
    """Refuse to log where the package that does it is missing, or nothing answers.

    Raises:
        SubbyteError: One is not installed, or MLflow cannot use the URI.
    """
    for key in ("tensorboard", "mlflow"):
        if getattr(config, key) is not None and find_spec(key) is None:
            raise SubbyteError(
                f"log.{key} is set, and {key} is not installed: pip install 'subbyte[{key}]'"
            )
    if config.mlflow is not None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            MlflowClient(tracking_uri=config.mlflow).search_experiments(max_results=1)
        except (MlflowException, ImportError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise SubbyteError(f"log.mlflow {config.mlflow} cannot be used: {reason}") from None


@contextmanager
def observing(
    config: LogConfig, names: tuple[str, str, str], recipe: Recipe | None
) -> Iterator[Observed]:
    """Record a variant's losses and log them, while it lasts.

    Args:
        config: Where it is logged.
        names: Of the experiment, of this run of it, and of the variant.
        recipe: The variant's; `None`: it is the float model.
    """
    experiment, run, variant = names
    with ExitStack() as stack:
        trackers: list[Tracker] = []
        if config.tensorboard is not None:
            folder = config.tensorboard / experiment / run / variant
            trackers.append(_TensorBoard(stack.enter_context(_writer(folder))))
        if config.mlflow is not None:
            fields = {} if recipe is None else recipe.as_dict()
            trackers.append(stack.enter_context(_mlflow(config.mlflow, names, fields)))
        yield Observed(Recorder([tracker.points for tracker in trackers]), trackers)


def write_table(config: LogConfig, run: str, results: Mapping[str, Any]) -> None:
    """Log what was measured of all variants as a table.

    Args:
        config: Where it is logged.
        run: By which this run of the experiment is told from others.
        results: What `results.json` holds.
    """
    experiment = results["experiment"]
    if config.tensorboard is not None:
        with _writer(config.tensorboard / experiment / run) as writer:
            writer.add_text("results", table_of(results), 0)
    if config.mlflow is not None:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=config.mlflow)
        text = f"{run}\n\n{table_of(results)}"
        owner = _experiment(client, experiment)
        client.set_experiment_tag(owner, "mlflow.note.content", text)


def numbers_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry of the results that are worth a curve of their own.

    Args:
        entry: Of the float model or of a variant.
    """
    found = {f"simulation/{key}": value for key, value in (entry.get("metrics") or {}).items()}
    for key in ("agreement_with_float", "sqnr_db", "size_bytes", "seconds", "clipped_share"):
        found[key] = entry.get(key)
    for runtime, own in (entry.get("deployed") or {}).items():
        found |= {f"{runtime}/{key}": value for key, value in (own.get("metrics") or {}).items()}
        for key in ("agreement", "max_abs_diff", "latency_ms", "int8_ops"):
            found[f"{runtime}/{key}"] = own.get(key)
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}


def table_of(results: Mapping[str, Any]) -> str:
    """What was measured of all variants, as a table in Markdown.

    Args:
        results: What `results.json` holds.
    """
    primary = results["primary_metric"]
    lines = [
        f"| variant | run in | {primary} | agreement | SQNR dB | ms | kB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for entry in [{"name": "float", **results["float"]}, *results["variants"]]:
        size = f"{entry['size_bytes'] / 1000:.0f}"
        cells = [entry["metrics"].get(primary), entry.get("agreement_with_float")]
        shown = [_cell(value, ".4f") for value in cells] + [_cell(entry.get("sqnr_db"), ".1f")]
        lines.append(f"| {entry['name']} | simulation | {' | '.join(shown)} | | {size} |")
        for runtime, own in entry["deployed"].items():
            cells = [own["metrics"].get(primary), own.get("agreement")]
            shown = [_cell(value, ".4f") for value in cells]
            latency = _cell(own.get("latency_ms"), ".3g")
            lines.append(f"| | {runtime} | {' | '.join(shown)} | | {latency} | |")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


class _TensorBoard:
    """Writes events of one variant."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def points(self, title: str, steps: Sequence[int], values: Sequence[float]) -> None:
        for step, value in zip(steps, values, strict=True):
            self.writer.add_scalar(f"learning/{title}", value, step)
        self.writer.flush()

    def metrics(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"measured/{key}", value, 0)


@contextmanager
def _writer(folder: Path) -> Iterator[Any]:
    """A writer of events in a folder."""
    from torch.utils.tensorboard import SummaryWriter

    files.make_folder(folder)
    writer: Any = SummaryWriter(log_dir=str(folder))
    try:
        yield writer
    finally:
        writer.close()


class _MLflow:
    """Writes into one run of MLflow's."""

    def __init__(self, client: Any, run: str) -> None:
        self.client, self.run = client, run

    def points(self, title: str, steps: Sequence[int], values: Sequence[float]) -> None:
        self._log(f"learning/{title}", steps, values)

    def metrics(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._log(key, [0], [value])

    def _log(self, key: str, steps: Sequence[int], values: Sequence[float]) -> None:
        from mlflow.entities import Metric

        now, key = int(1000 * time.time()), NOT_FOR_NAMES.sub("_", key)
        found = [Metric(key, value, now, step) for step, value in zip(steps, values, strict=True)]
        self.client.log_batch(self.run, metrics=found)


@contextmanager
def _mlflow(uri: str, names: tuple[str, str, str], fields: Mapping[str, Any]) -> Iterator[_MLflow]:
    """A run of MLflow's for a variant, ended as it ends."""
    from mlflow import MlflowClient

    experiment, run, variant = names
    client = MlflowClient(tracking_uri=uri)
    owner, tags = _experiment(client, experiment), {"subbyte.run": run}
    made = client.create_run(owner, run_name=variant, tags=tags).info.run_id
    for key, value in fields.items():
        client.log_param(made, key, str(value)[:LONGEST])
    status = "FAILED"
    try:
        yield _MLflow(client, made)
        status = "FINISHED"
    finally:
        client.set_terminated(made, status)


def _experiment(client: Any, name: str) -> str:
    """The id of MLflow's experiment of this name, made where there is none."""
    known = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if known is None else known.experiment_id)
