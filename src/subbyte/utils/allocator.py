"""Memory that is freed stays with the process for a while: large tensors come and go quickly."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
# To set a threshold ends glibc's adapting it, so it gets the value to which that would lead.
AFTERWARDS = {MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, MMAP_MAX: 65536}


@contextmanager
def keeping_memory() -> Iterator[None]:
    """While it lasts, glibc does not return freed memory to the system, and then all at once.

    Otherwise every large tensor is mapped and filled with zeros by the kernel page by page when it
    is written, which takes a model in evaluation a fifth to half of its time. Without effect where
    the C library is another.
    """
    library = _library()
    if library is None:
        yield
        return
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        for parameter, value in AFTERWARDS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def give_back() -> None:
    """Return to the system what is free now: where a part is done that took much memory."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has none by this name
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
