from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from subbyte.utils.allocator import give_back, keeping_memory


def resident() -> int:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 // 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_kept_is_returned_at_the_end() -> None:
    before = resident()
    with keeping_memory():
        for _ in range(3):
            torch.ones(50 * 2**20)  # 200 MB
        assert resident() > before + 100
    assert resident() < before + 100


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_kept_can_be_given_back_between_parts() -> None:
    before = resident()
    with keeping_memory():
        torch.ones(50 * 2**20)
        behind = torch.ones(1000)  # so that it is not at the end of the heap
        assert resident() > before + 100
        give_back()
        assert resident() < before + 100
    assert behind.sum() == 1000
