from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from subbyte.errors import SubbyteError
from subbyte.methods.common.store import Store
from subbyte.utils.allocator import keeping_memory

CPU = torch.device("cpu")


def test_beyond_the_limit_tensors_lie_in_files_that_vanish(tmp_path: Path) -> None:
    store = Store(1000, CPU, tmp_path)
    first = store.empty((10, 20), torch.float32)  # 800 bytes
    second = store.empty((10, 20), torch.float32)
    assert store.used == 800
    second[:] = torch.arange(20.0)
    assert second[3].tolist() == list(range(20))
    assert list(tmp_path.iterdir()) == []
    del first
    assert store.used == 0
    store.empty((10, 20), torch.float32)


def resident() -> int:
    """Bytes of memory that the process has now."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_large_tensors_go_back_to_the_system_though_freed_memory_is_kept() -> None:
    store, size = Store(2**30, CPU), 2**26
    with keeping_memory():
        before = resident()
        tensor = store.empty((size // 4,), torch.float32).fill_(3)
        behind = torch.ones(1000)  # on top of it, were both on the heap
        assert resident() - before > 0.9 * size
        del tensor
        assert store.used == 0
        again = store.empty((size // 4 - 5,), torch.float32).fill_(4)
        assert resident() - before < 1.1 * size
        del again, store
        assert resident() - before < 0.1 * size
    assert behind.sum() == 1000


def test_rows_that_are_put_are_there_in_memory_and_in_a_file(tmp_path: Path) -> None:
    values = torch.arange(24.0).view(6, 4)
    for limit in (2**20, 0):
        store = Store(limit, CPU, tmp_path)
        whole = store.empty((6, 4), torch.float32).fill_(-1)
        store.put(whole, slice(2, 5), values.T.contiguous().T[2:5])
        store.let_go()
        assert torch.equal(whole[2:5], values[2:5])
        assert bool((whole[[0, 1, 5]] == -1).all())


def test_what_is_gone_makes_room_and_what_is_still_seen_stays() -> None:
    store = Store(2**23, CPU)
    first = store.empty((2**20,), torch.float32).fill_(1)
    part = first[5:7]
    del first
    assert store.used == 2**22
    second = store.empty((2**20,), torch.float32).fill_(2)
    assert part.tolist() == [1, 1]
    del part, second
    assert store.used == 0
    whole = store.empty((2**21,), torch.float32).fill_(3)
    assert store.used == 2**23
    assert whole.sum() == 3 * 2**21


def test_files_are_kept_but_not_in_memory(tmp_path: Path) -> None:
    store, size = Store(0, CPU, tmp_path), 2**26
    before = resident()
    tensor = store.empty((size // 4,), torch.float32).fill_(3)
    assert resident() - before > 0.9 * size
    store.let_go()
    assert resident() - before < 0.1 * size
    assert tensor.sum(dtype=torch.float64) == 3 * (size // 4)
    assert store.empty((0, 5), torch.float32).shape == (0, 5)


def test_a_full_disk_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SubbyteError, match="has no room for 4 MB of activations"):
        Store(0, CPU, tmp_path).empty((1024, 1024), torch.float32)
    assert list(tmp_path.iterdir()) == []
