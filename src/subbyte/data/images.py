"""Image files: find them, open them, and tell the broken ones from the whole ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from subbyte.errors import SubbyteError
from subbyte.progress import Progress, Silent

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
THREADS = min(8, os.cpu_count() or 1)

_SILENT = Silent()
_CHUNK = 1024


def image_files(folder: Path) -> list[Path]:
    """All image files under `folder`, at any depth, sorted by the parts of their path.

    An image file is one whose name ends in one of `EXTENSIONS`, in upper or lower case; names
    that begin with a dot are passed over. Raises `SubbyteError` if a folder cannot be read.
    """
    found = _walk(folder, frozenset())
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def subfolders(folder: Path) -> list[str]:
    """The names of the folders directly in `folder`, sorted, without those that begin with a dot.

    Raises `SubbyteError` if `folder` cannot be read.
    """
    return sorted(entry.name for entry in _entries(folder) if entry.is_dir())


def open_image(path: Path) -> Image.Image:
    """The decoded image in `path` (of a file with several, the first), as it is stored.

    Raises `SubbyteError` if the file is missing, is no image, or is cut off.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # decoders raise what they like on damaged files
        raise SubbyteError(f"image {path} {_fault(error)}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of the image in `path`, read from the file's header.

    Raises `SubbyteError` if the file is missing or is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:
        raise SubbyteError(f"image {path} {_fault(error)}") from error


def fault(path: Path) -> str | None:
    """What is wrong with the image file `path`, as the end of a sentence; `None` if it is whole."""
    try:
        with Image.open(path) as image:
            # JPEG files are read to their end, but written out at an eighth of their size.
            image.draft(image.mode, (1, 1))
            image.load()
    except Exception as error:
        return _fault(error)
    return None


def broken(paths: Sequence[Path], progress: Progress = _SILENT) -> list[Path]:
    """Those of `paths`, in their order, that do not decode to the end."""
    found = progress.track(_faults(paths), "checking images", len(paths))
    return [path for path, reason in found if reason is not None]


def _faults(paths: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    with ThreadPoolExecutor(THREADS) as pool:
        # In chunks, because a pool queues all that it is given, however many files that are.
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            yield from zip(chunk, pool.map(fault, chunk), strict=True)


def _fault(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "may not be read"
        case IsADirectoryError():
            return "is a folder, not an image file"
        case UnidentifiedImageError():
            return "is not an image in a format that Pillow reads"
        case Image.DecompressionBombError():
            return "has more pixels than Pillow's safety limit allows"
        case _:
            return f"is cut off or damaged ({' '.join(str(error).split())})"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise SubbyteError(f"folder {folder} cannot be read ({error.strerror})") from error


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder that it lies in
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(folder / entry.name, above | {here})
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            yield folder / entry.name
