"""Whether a deployed model does as the simulation: outputs on the same images, and latency."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch

from subbyte.progress import Progress

Run = Callable[[torch.Tensor], np.ndarray]
WARM_UP, RUNS, SECONDS = 5, 50, 3.0


class Session(Protocol):
    """A model loaded into a runtime."""

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch."""
        ...

    def int8_ops(self) -> int:
        """How many convolutions and matrix products run on integers."""
        ...


class Runtime(Protocol):
    """What a file in this folder offers for its runtime: the same verbs everywhere."""

    def load(self, path: Path, threads: int) -> Session:
        """Load an ONNX file."""
        ...

    def version(self) -> str:
        """The runtime's version; `SubbyteError` if it is not installed."""
        ...


def runtime(name: str) -> Runtime:
    """The runtime of this name, "onnxruntime" or "openvino"."""
    module: Any = importlib.import_module(f"subbyte.runtime.{name}")
    loaded: Runtime = module
    return loaded


def simulated(model: torch.nn.Module, device: str) -> Run:
    """Run the model in PyTorch."""

    @torch.no_grad()
    def run(inputs: torch.Tensor) -> np.ndarray:
        output: np.ndarray = model(inputs.to(device)).float().cpu().numpy()
        return output

    return run


def deployed(session: Session) -> Run:
    """Run the model in a runtime."""
    return lambda inputs: session.run(inputs.numpy())[0]


def outputs(
    runs: Mapping[str, Run],
    batches: Iterable[Mapping[str, torch.Tensor]],
    progress: Progress,
    description: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What each of `runs` gives for the same images, decoded once; and the images' labels."""
    collected: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    labels = [np.zeros(0, np.int64)]
    for batch in progress.track(batches, description):
        labels.append(batch["targets"].numpy())
        for name, run in runs.items():
            collected[name].append(run(batch["inputs"]))
    return {name: np.concatenate(parts) for name, parts in collected.items()}, np.concatenate(
        labels
    )


def latency_ms(session: Session, example: np.ndarray) -> float:
    """Median time of one run in ms, after a warm-up; at most `RUNS` runs or `SECONDS` seconds."""
    for _ in range(WARM_UP):
        session.run(example)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < RUNS and time.perf_counter() - started < SECONDS:
        before = time.perf_counter()
        session.run(example)
        times.append(time.perf_counter() - before)
    return median(times) * 1000
