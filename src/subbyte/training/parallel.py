"""Training in several processes, one a GPU, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

# The others wait while the first process evaluates.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Group:
    """Which process this is, of how many, and its device; only the first, 0, writes files."""

    device: str
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of all processes' `values`."""
        values = values.detach().clone()
        if self.size > 1:
            distributed.all_reduce(values)
            values /= self.size
        return values


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group of processes that torchrun has started; without it, this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device)
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Group(device, distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
