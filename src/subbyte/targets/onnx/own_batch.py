"""A file whose batch has a fixed size, run on batches of any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from subbyte.targets import base as targets
from subbyte.targets.base import Session


@dataclass(frozen=True)
class OwnBatch:
    """A session that is given as many images at once as its file takes.

    Attributes:
        session: The runtime's.
        size: How many images a run takes.
    """

    session: Session
    size: int

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs for one batch, of any size; a last part that is too short is filled up."""
        count, size = len(inputs[0]), self.size
        if count == size:
            return self.session.run(*inputs)
        parts = []
        for start in range(0, count, size):
            some = [x[start : start + size] for x in inputs]
            short = size - len(some[0])
            filled = [np.concatenate([x, np.repeat(x[-1:], short, 0)]) for x in some]
            parts.append([y[: size - short] for y in self.session.run(*filled)])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def int8_ops(self) -> int:
        """As of the runtime's session."""
        return self.session.int8_ops()


def load_for_any_batch(runtime: str, path: Path, threads: int) -> Session:
    """Load a file so that it takes batches of any size, whatever size its own has.

    Args:
        runtime: What runs it.
        path: The file.
        threads: How many it runs on.
    """
    session, size = targets.runtime(runtime).load(path, threads), own_batch(path)
    return session if size is None else OwnBatch(session, size)


def own_batch(path: Path) -> int | None:
    """How many images an ONNX file takes at once; `None` where it takes any number."""
    if path.suffix != ".onnx":
        return None
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    tensors = [x for x in graph.input if x.name not in weights] + list(graph.output)
    shapes = [x.type.tensor_type.shape.dim for x in tensors]
    sizes = {dims[0].dim_value if dims else 0 for dims in shapes}
    return sizes.pop() or None if len(sizes) == 1 else None
