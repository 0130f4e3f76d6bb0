"""How many processors this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")  # where Linux shows the limits of groups of processes
MEMBERSHIP = Path("/proc/self/cgroup")  # the groups of this process
OPENMP = "OMP_NUM_THREADS"  # how many threads PyTorch starts
SHARE = "SUBBYTE_THREADS"  # how many a process may start that is one of several
# Threads that wait by spinning keep the others from working where processes share processors.
NO_SPINNING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def usable(membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> int:
    """How many processors this process may use, at least 1.

    These are those of its affinity (`taskset`), and no more than the time that its control groups
    leave it (a container's CPU limit). A part of a processor does not count.

    Args:
        membership: A file as Linux has it at `MEMBERSHIP`; where there is none, nothing is limited.
        cgroups: The folder in which the groups are mounted.
    """
    return max(1, int(min([_affinity(), *_quotas(membership, cgroups)])))


def share() -> int:
    """How many threads this process may start, which may be one of several at work."""
    return int(os.environ.get(SHARE) or usable())


def sharing(environment: Mapping[str, str], processes: int) -> dict[str, str]:
    """The environment of one of so many processes that share the processors.

    Args:
        environment: That of this process.
        processes: How many.
    """
    count = str(max(1, usable() // processes))
    return {**environment, **NO_SPINNING, OPENMP: count, SHARE: count}


def limit_openmp(environment: MutableMapping[str, str], count: int) -> None:
    """Let PyTorch start `count` threads, unless the user has said how many.

    It knows of the affinity, but not of control groups. This works before PyTorch is imported.
    """
    if count < _affinity():
        environment.setdefault(OPENMP, str(count))


def _affinity() -> int:
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        return int(os.process_cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(membership: Path, cgroups: Path) -> Iterator[float]:
    """The limits of all groups in which this process is, in processors."""
    for line in _text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers == "":  # version 2, which may stand beside version 1
            folders = [cgroups, cgroups / "unified"]
        elif "cpu" in names:
            folders = [cgroups / controllers, *(cgroups / name for name in names)]
        else:
            continue
        for root in folders:
            yield from (quota for group in _upwards(root, path) for quota in _quota_of(group))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it: a limit holds for all that is below.

    A container sees its own group as the root, although its path may be that on the host.
    """
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:count])


def _quota_of(group: Path) -> Iterator[float]:
    """A group's own limit, in version 2 and in version 1."""
    words = _text(group / "cpu.max").split()
    words = words or [_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2 and all(word.isdigit() for word in words):  # else "max", -1, or no file
        quota, period = map(int, words)
        if period > 0:
            yield quota / period


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
