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
def test_what_is_kept_is_returned_at_the_end_even_after_an_error() -> None:
    before = resident()
    with pytest.raises(RuntimeError, match="invalid shape"), keeping_memory():
        torch.ones(50 * 2**20).add_(1).reshape(7)  # 200 MB, freed, and an error
    assert resident() < before + 100
