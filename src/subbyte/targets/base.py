"""Runs of models in PyTorch and in the runtimes: outputs on the same images, and latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch

from subbyte.errors import SubbyteError, unknown
from subbyte.targets import module, names
from subbyte.utils.allocator import keeping_memory
from subbyte.utils.progress import Progress

Rewrite = Callable[[ir.Model], None]  # changes a graph in place
# From a file, threads and one batch to what each node takes, in milliseconds.
NodeTimes = Callable[[Path, int, tuple[np.ndarray, ...]], Mapping[str, float]]
Run = Callable[[Any], Any]  # from a batch's inputs to what a model gives for them
WARM_UP, RUNS, SECONDS = 5, 50, 3.0


class Session(Protocol):
    """A model loaded into a runtime."""

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch."""
        ...

    def int8_ops(self) -> int:
        """How many convolutions and matrix products run with int8 kernels."""
        ...


class Runtime(Protocol):
    """What a file in this folder offers for its runtime.

    It may have `REWRITES`, which make its own form of an exported graph, one after the other;
    without them it is given the file for all.
    """

    def load(self, path: Path, threads: int) -> Session:
        """Load an ONNX file."""
        ...

    def version(self) -> str:
        """The runtime's version; `SubbyteError` if it is not installed."""
        ...


def runtime(name: str) -> Runtime:
    """The runtime of this name: the file in this folder that is called so.

    Raises:
        SubbyteError: There is no such file.
    """
    if name not in names():
        raise unknown("runtime", name, names())
    loaded: Runtime = module(name)
    if not hasattr(loaded, "load"):
        raise SubbyteError(f"nothing here runs the files of {name}: leave it out of the runtimes")
    return loaded


def node_times(name: str) -> NodeTimes:
    """How a runtime profiles a file.

    Raises:
        SubbyteError: It does not.
    """
    found: NodeTimes | None = getattr(runtime(name), "node_times", None)
    if found is None:
        raise SubbyteError(f"{name} has no profile of a file: take another runtime")
    return found


def rewrites(name: str | None) -> Sequence[Rewrite]:
    """What makes a runtime's form of an exported graph; `None`: the form for all runtimes."""
    common: Sequence[Rewrite] = module("portable").REWRITES
    if name is None:
        return common
    own: Sequence[Rewrite] = getattr(runtime(name), "REWRITES", common)
    return own


def simulated(model: torch.nn.Module, device: str) -> Run:
    """Run a model that gives one tensor in PyTorch; its output as a float32 array."""

    @torch.no_grad()
    def run(inputs: torch.Tensor) -> np.ndarray:
        output: np.ndarray = model(inputs.to(device)).float().cpu().numpy()
        return output

    return run


def deployed(session: Session) -> Run:
    """Run a model that gives one tensor in a runtime."""

    def run(inputs: torch.Tensor) -> np.ndarray:
        return session.run(inputs.numpy())[0]

    return run


def collected(
    runs: Mapping[str, Run],
    batches: Iterable[Mapping[str, Any]],
    progress: Progress,
    description: str,
) -> tuple[dict[str, list[Any]], list[Any]]:
    """What several runs give for the same batches, which are decoded once.

    Args:
        runs: Name → run.
        batches: Each with "inputs" and, if they are known, "targets".
        progress: Shows how far it is.
        description: What progress calls it.

    Returns:
        Name → what the run gave for each batch; and the targets of each batch.
    """
    found: dict[str, list[Any]] = {name: [] for name in runs}
    targets = []
    with keeping_memory():
        for batch in progress.track(batches, description):
            targets.append(batch.get("targets"))
            for name, run in runs.items():
                found[name].append(run(batch["inputs"]))
    return found, targets


def latency_ms(session: Session, *example: np.ndarray) -> float:
    """Median time of one run in ms, after a warm-up; at most `RUNS` runs or `SECONDS` seconds."""
    for _ in range(WARM_UP):
        session.run(*example)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < RUNS and time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        session.run(*example)
        times.append(time.perf_counter() - before)
    return median(times) * 1000
