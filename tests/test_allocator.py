from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from subbyte.allocator import keeping_memory


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
