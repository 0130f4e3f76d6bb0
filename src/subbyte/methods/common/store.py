"""A store for activations on all calibration images: in memory to a limit, then in files."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from pathlib import Path

import torch

from subbyte.errors import SubbyteError

APART = 2**20  # bytes from which a tensor has pages of its own
LARGER = 1.25  # than a tensor its pages are at most


class Store:
    """Hands out empty tensors, and takes them from memory or from files mapped into it.

    Memory of tensors that are gone is handed out again, because the system fills new pages with
    zeros one by one.

    Attributes:
        used: Bytes of memory that its tensors take now.
    """

    def __init__(self, limit: int, device: torch.device, folder: Path | None = None) -> None:
        """A store that is empty.

        Args:
            limit: Bytes of memory.
            device: Where tensors in memory lie.
            folder: Where the files are; `None`: the system's folder for temporary ones. A file is
                gone with its tensor.
        """
        self.limit, self.device, self.folder = limit, device, folder
        self.used = 0
        self._free: list[mmap.mmap] = []  # memory of tensors that are gone
        self._files: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._opened: dict[int, int] = {}  # where a tensor begins in memory → its file

    def let_go(self) -> None:
        """Give the memory under files back; what lies there is read again when it is needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for pages in self._files:
                pages.madvise(mmap.MADV_DONTNEED)

    def put(self, whole: torch.Tensor, chosen: slice, rows: torch.Tensor) -> None:
        """Write some rows of a tensor of this store.

        Into a file they are written as into any: by way of memory the system would note page by
        page that it changed.

        Args:
            whole: The tensor.
            chosen: Which rows.
            rows: Their values.
        """
        file = self._opened.get(whole.data_ptr())
        if file is None:
            whole[chosen] = rows
            return
        plain = rows.detach().to("cpu", whole.dtype).contiguous()
        left = plain.reshape(-1).view(torch.uint8).numpy().data
        place = chosen.start * whole.stride(0) * whole.itemsize
        while left:
            written = os.pwrite(file, left, place)
            left, place = left[written:], place + written

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of this shape, in memory as long as the limit holds.

        Raises:
            SubbyteError: The disk is full.
        """
        size = dtype.itemsize
        for length in shape:
            size *= length
        if not size:
            return torch.empty(shape, dtype=dtype, device=self.device)
        if self.used + size > self.limit:
            return self._mapped(shape, dtype, size)
        if self.device.type != "cpu" or size < APART:
            tensor = torch.empty(shape, dtype=dtype, device=self.device)
            self.used += size
            weakref.finalize(tensor, self._freed, size)
            return tensor
        # Not from the heap, in which tensors that live long leave gaps that no other one fits.
        pages = self._pages(size)
        self.used += len(pages)
        lease = memoryview(pages)  # lives as long as the tensor's memory is in use
        weakref.finalize(lease, self._returned, pages)
        return torch.frombuffer(lease, dtype=dtype, count=size // dtype.itemsize).view(shape)

    def _pages(self, size: int) -> mmap.mmap:
        """Free memory that is not much larger, or new memory, for which others make room."""
        fitting = [pages for pages in self._free if size <= len(pages) <= LARGER * size]
        fitting = [pages for pages in fitting if self.used + len(pages) <= self.limit]
        if fitting:
            found = min(fitting, key=len)
            self._free = [pages for pages in self._free if pages is not found]
            return found
        while self._free and self.used + sum(map(len, self._free)) + size > self.limit:
            self._free.pop(0)
        return mmap.mmap(-1, size)

    def _returned(self, pages: mmap.mmap) -> None:
        self.used -= len(pages)
        self._free.append(pages)

    def _freed(self, size: int) -> None:
        self.used -= size

    def _mapped(self, shape: tuple[int, ...], dtype: torch.dtype, size: int) -> torch.Tensor:
        handle, name = tempfile.mkstemp(prefix="subbyte-", dir=self.folder)
        try:
            os.posix_fallocate(handle, 0, size)  # a full disk shows here, not while writing
            pages = mmap.mmap(handle, size)
            file = os.dup(handle)
        except OSError as error:
            raise SubbyteError(
                f"{Path(name).parent} has no room for {size / 2**20:.0f} MB of activations "
                f"({error.strerror}): make room there and go on with --resume, or give the method "
                "a larger cache_memory or fewer images"
            ) from None
        finally:
            os.close(handle)
            os.unlink(name)  # the mapping keeps the space as long as the tensor lives
        self._files.add(pages)
        tensor = torch.frombuffer(pages, dtype=dtype).view(shape)
        self._opened[tensor.data_ptr()] = file
        weakref.finalize(pages, self._closed, tensor.data_ptr(), file)
        return tensor

    def _closed(self, place: int, file: int) -> None:
        self._opened.pop(place, None)
        os.close(file)
