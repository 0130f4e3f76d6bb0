"""From a model with quantized operators to the bytes of a `.pte`, and back to what it holds."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from subbyte.errors import SubbyteError
from subbyte.graph.batch import batch_size
from subbyte.graph.capture.place import cause, quiet
from subbyte.targets.refusal import imported

METADATA = "subbyte_metadata"  # a method of the file that returns JSON
METHOD = "forward"
STDERR = 2
BETWEEN = ("executorch_call_delegate", "getitem")  # what joins delegates


@dataclass(frozen=True)
class Written:
    """A program.

    Attributes:
        content: The file's bytes.
        delegates: How many parts XNNPACK runs.
        others: Operator that XNNPACK does not take → how often it stands between these parts.
    """

    content: bytes
    delegates: int
    others: dict[str, int]


def write_program(model: nn.Module, args: tuple[Any, ...], metadata: dict[str, Any]) -> Written:
    """Lower a model of a batch of one image for XNNPACK.

    Args:
        model: The model with quantized operators, on the CPU.
        args: A batch's arguments, of any number of images.
        metadata: What is noted in the file.

    Raises:
        SubbyteError: It cannot be captured or lowered.
    """
    imported("executorch")
    try:
        with quietly(), torch.no_grad():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower

            program = torch.export.export(model, single(args), strict=False)
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                constant_methods={METADATA: json.dumps(metadata)},
            )
            nodes = list(edge.exported_program().graph.nodes)
            content = bytes(edge.to_executorch().buffer)
    except SubbyteError:
        raise
    except Exception as error:
        raise SubbyteError(f"the model cannot be written for ExecuTorch: {cause(error)}") from error
    names = Counter(_operator(node) for node in nodes if node.op == "call_function")
    delegates = names.pop(BETWEEN[0], 0)
    return Written(content, delegates, {k: n for k, n in names.items() if k not in BETWEEN})


def single(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A batch's arguments with its first image alone, on the CPU."""
    size = batch_size(args)

    def first(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        is_batch = leaf.dim() > 0 and leaf.shape[0] == size
        return (leaf[:1].contiguous() if is_batch else leaf).cpu()

    found: tuple[Any, ...] = pytree.tree_map(first, tuple(args))
    return found


def _operator(node: Any) -> str:
    name = str(getattr(node.target, "__name__", node.target))
    return name.removeprefix("aten.").removesuffix(".default")


@contextmanager
def quietly() -> Iterator[None]:
    """Without what ExecuTorch says of its workings, in logs and past Python on standard error."""
    loggers = [logging.getLogger(name) for name in ("", "torch")]
    levels, kept = [logger.level for logger in loggers], os.dup(STDERR)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "wb") as nothing, quiet():
            os.dup2(nothing.fileno(), STDERR)
            yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
