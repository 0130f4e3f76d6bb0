"""Processors are counted as the kernel's documentation says, in folders that look like its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subbyte.utils import cores

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FREE = {"cpu.max": "max 100000\n"}
HALF, ONE, MANY = ({"cpu.max": f"{share} 100000\n"} for share in (50000, 190000, 6400000))
V1_ONE = {"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"}
V1_FREE = {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}


def usable(folder: Path, membership: str, groups: dict[str, dict[str, str]]) -> int:
    """What is counted where the kernel shows these groups."""
    for group, files in groups.items():
        (folder / "cgroup" / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / "cgroup" / group / name).write_text(text)
    (folder / "membership").write_text(membership)
    return cores.usable(folder / "membership", folder / "cgroup")


@pytest.mark.parametrize(
    ("membership", "groups", "count"),
    [
        ("0::/\n", {"": {}}, HERE),
        ("0::/\n", {"": FREE}, HERE),
        ("0::/\n", {"": ONE}, 1),
        ("0::/\n", {"": HALF}, 1),
        ("0::/\n", {"": MANY}, HERE),
        ("0::/\n", {"": {"cpu.max": "nonsense"}}, HERE),
        # The limit of a group holds for those in it, however much they have themselves.
        ("0::/a.slice/b.scope\n", {"a.slice": ONE, "a.slice/b.scope": MANY}, 1),
        ("0::/a.slice/b.scope\n", {"a.slice": FREE, "a.slice/b.scope": ONE}, 1),
        ("0::/a.slice\n", {"a.slice": FREE, "b.slice": ONE}, HERE),
        # In a container whose path is that on the host.
        ("0::/../docker/1a2b\n", {"": ONE}, 1),
        # Version 1, its controllers together or one by one.
        ("4:cpu,cpuacct:/docker/1a2b\n3:memory:/x\n", {"cpu,cpuacct/docker/1a2b": V1_ONE}, 1),
        ("4:cpuacct,cpu:/docker/1a2b\n", {"cpu": V1_ONE}, 1),
        ("4:cpu:/\n", {"cpu": V1_FREE}, HERE),
        ("4:cpuset:/\n", {"cpuset": V1_ONE}, HERE),
        # Both versions beside each other.
        ("4:cpu:/x\n0::/\n", {"cpu/x": V1_FREE, "unified": ONE}, 1),
        ("", {}, HERE),
    ],
)
def test_a_quota_of_control_groups_counts(
    tmp_path: Path, membership: str, groups: dict[str, dict[str, str]], count: int
) -> None:
    assert usable(tmp_path, membership, groups) == count


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert cores.usable(tmp_path / "gone", tmp_path) == HERE


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_affinity_of_the_process_counts() -> None:
    """Also for threads of runtimes, and for those that decode images."""
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from subbyte.data import images; from subbyte.utils import cores, machine; "
        "print(cores.usable(), machine.threads(), images.THREADS)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert finished.stdout.split() == ["1", "1", "1"]


def test_pytorch_gets_no_more_threads_than_processors() -> None:
    fewer: dict[str, str] = {}
    cores.limit_openmp(fewer, HERE - 1)
    assert fewer == {"OMP_NUM_THREADS": str(HERE - 1)}
    enough: dict[str, str] = {}
    cores.limit_openmp(enough, HERE)
    assert enough == {}
    chosen = {"OMP_NUM_THREADS": "7"}
    cores.limit_openmp(chosen, HERE - 1)
    assert chosen == {"OMP_NUM_THREADS": "7"}
