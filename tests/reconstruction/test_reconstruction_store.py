from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from subbyte.errors import SubbyteError
from subbyte.reconstruction.store import Store

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


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SubbyteError, match="has no room for 4 MB of activations"):
        Store(0, CPU, tmp_path).empty((1024, 1024), torch.float32)
    assert list(tmp_path.iterdir()) == []
