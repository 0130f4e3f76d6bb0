"""What the machine is, as far as it bears on the numbers."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from subbyte.utils import cores

PACKAGES = ("torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino")
CPUINFO = Path("/proc/cpuinfo")  # on Linux
INTEGER_DOT = ("avx512_vnni", "avx_vnni", "amx_int8")


def describe() -> dict[str, Any]:
    """Versions, processor and threads, for `environment.json`."""
    return {
        "subbyte": metadata.version("subbyte"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "usable_cores": cores.usable(),
        "torch_threads": torch.get_num_threads(),
        "vnni": has_vnni(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def has_vnni() -> bool | None:
    """Whether the processor adds u8×s8 products in 32 bits; `None` where that is not known.

    An x86 processor without such instructions adds pairs of products in 16 bits, which saturates
    silently. Other architectures do not have the fault.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    flags = _cpu_flags()
    return None if flags is None else any(flag in flags for flag in INTEGER_DOT)


def threads() -> int:
    """How many threads a runtime is given: 2, or the one that this process may use."""
    return min(2, cores.usable())


def _cpu_flags() -> set[str] | None:
    for line in _cpuinfo():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return None


def _processor() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    try:
        return CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
