"""Image files: find them, open them, and report what is odd or broken about them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from subbyte.errors import SubbyteError
from subbyte.utils.cores import usable
from subbyte.utils.progress import Progress, Silent

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
THREADS = min(8, usable())
# Pixels from which on a JPEG file is decoded at a fraction of its size, where that is enough.
LARGE = 2**24
# Pixels that may be decoded at the same time, by all threads together.
PIXELS_OPEN = 2**25

# The fault of a file that is not there.
MISSING = "does not exist"

_SILENT = Silent()
_CHUNK = 1024
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_UNKNOWN_WHITE = (
    "holds {}, and nothing says which of them is white: save it with 8 or 16 bits a channel"
)


@dataclass(frozen=True)
class ImageInfo:
    """What a look at an image file has shown.

    Attributes:
        fault: What is wrong with it, as the end of a sentence; `None`: it is whole.
        size: Height and width in pixels, upright.
        turned: It is stored otherwise than it is to be seen, as its EXIF orientation says.
        transparent: It has pixels that are not opaque.
    """

    fault: str | None = None
    size: tuple[int, int] = (0, 0)
    turned: bool = False
    transparent: bool = False


class Keeper(Protocol):
    """Gets the images that a look decodes, until it is full."""

    @property
    def full(self) -> bool:
        """Whether it takes no more images."""
        ...

    @property
    def enough(self) -> int | None:
        """As for `opened`."""
        ...

    def take(self, path: Path, image: Image.Image) -> None:
        """Take an image as `opened` gives it."""
        ...


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


@contextmanager
def opened(path: Path, enough: int | None = None) -> Iterator[Image.Image]:
    """The decoded image in `path` (of a file with several, the first), upright, 8 bits a channel.

    While the image is open, its pixels count against `PIXELS_OPEN`.

    Args:
        path: The image file.
        enough: A short side in pixels that will do; a large JPEG file is then decoded at a half, a
            quarter or an eighth of its size, if that is not shorter.

    Raises:
        SubbyteError: The file is missing, is not an image, is cut off, or holds values of which
            nothing says how bright they are.
    """
    with ExitStack() as stack:
        try:
            image: Image.Image = stack.enter_context(Image.open(path))
            _shrink(image, enough)
            stack.enter_context(_open_pixels.taken(image.width * image.height))
            image.load()
            image = _ordinary(_upright(image))
        except Exception as error:  # decoders raise what they like on damaged files
            raise SubbyteError(f"image {path} {_fault(error)}") from error
        yield image


def look(path: Path, keeper: Keeper | None = None) -> ImageInfo:
    """Decode an image file to its end, and report what was seen.

    Args:
        path: The image file.
        keeper: Gets the image, unless it is full.
    """
    try:
        with Image.open(path) as image:
            height, width = image.height, image.width
            wanted = keeper is not None and not keeper.full
            if wanted:
                assert keeper is not None
                _shrink(image, keeper.enough)
            else:
                # JPEG files are read to their end, but written out at an eighth of their size.
                image.draft(image.mode, (1, 1))
            with _open_pixels.taken(image.width * image.height):
                image.load()
                orientation = _orientation(image)
                ordinary = _ordinary(_upright(image) if wanted else image)
                if wanted:
                    assert keeper is not None
                    keeper.take(path, ordinary)
                size = (width, height) if orientation in _SIDEWAYS else (height, width)
                return ImageInfo(None, size, orientation in _UPRIGHT, _is_transparent(image))
    except Exception as error:
        return ImageInfo(_fault(error))


def inspect(
    paths: Sequence[Path], progress: Progress = _SILENT, keeper: Keeper | None = None
) -> dict[Path, ImageInfo]:
    """Decode each image file to its end, and report what was seen.

    Args:
        paths: The files.
        progress: Shows how far it is.
        keeper: Gets what is decoded, until it is full.
    """
    same: dict[ImageInfo, ImageInfo] = {}  # most are equal: one object for all of them
    looked = progress.track(_looked(paths, keeper), "checking images", len(paths))
    return {path: same.setdefault(infos, infos) for path, infos in looked}


def refuse_broken(faults: Mapping[Path, str | None], *, of_experiment: bool = True) -> None:
    """Raise `SubbyteError` if one of the files has a fault.

    Args:
        faults: File → its fault, the end of a sentence, or `None`.
        of_experiment: Whether the images are an experiment's, which can leave broken ones out.
    """
    bad = [path for path, fault in faults.items() if fault]
    if not bad:
        return
    others = len(bad) - 1
    more = f", and {others} more of {len(faults)} images are broken" if others else ""
    way = "leave it out with data.skip_broken: true" if of_experiment else "take it out"
    raise SubbyteError(f"image {bad[0]} {faults[bad[0]]}{more}: replace what is broken, or {way}")


@contextmanager
def large_allowed() -> Iterator[None]:
    """While it lasts, Pillow does not warn of large images; it still refuses the largest.

    For the main thread, around work that other threads do: a large image is not an attack.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


class _OpenPixels:
    """A number of pixels, of which each open image takes a part; larger ones get all of it."""

    def __init__(self) -> None:
        self.free = threading.Condition()
        self.pixels = 0

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        with self.free:
            self.free.wait_for(lambda: self.pixels == 0 or self.pixels + pixels <= PIXELS_OPEN)
            self.pixels += pixels
        try:
            yield
        finally:
            with self.free:
                self.pixels -= pixels
                self.free.notify_all()


_open_pixels = _OpenPixels()


class _NoPictureError(Exception):
    """Whole, but its values cannot be read as brightness; the message is the end of a sentence."""


def _shrink(image: Image.Image, enough: int | None) -> None:
    """Let a large JPEG file be decoded at a fraction of its size, if its short side is `enough`."""
    if enough is not None and image.width * image.height > LARGE:
        image.draft(image.mode, (enough, enough))


def _looked(paths: Sequence[Path], keeper: Keeper | None) -> Iterator[tuple[Path, ImageInfo]]:
    with ThreadPoolExecutor(THREADS) as pool:
        # In chunks, because a pool queues all that it is given, however many files that are.
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            with large_allowed():
                infos = list(pool.map(partial(look, keeper=keeper), chunk))
            yield from zip(chunk, infos, strict=True)


def _orientation(image: Image.Image) -> int:
    """How a loaded image is to be turned, by EXIF's numbers; 1 where EXIF has none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF that cannot be read is ignored: the pixels are whole
        return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _ordinary(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel, in a mode that Pillow converts to grey and to RGB."""
    if image.mode == "F":
        raise _NoPictureError(_UNKNOWN_WHITE.format("floating-point values"))
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")  # straight to RGB, Pillow warns of each image
    mode = {"LAB": "RGB", "La": "LA"}.get(image.mode)
    return image if mode is None else image.convert(mode)


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise _NoPictureError(_UNKNOWN_WHITE.format("values beyond 16 bits"))
    # 65535 is 255 · 257, so this is v · 255 / 65535, rounded.
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _is_transparent(image: Image.Image) -> bool:
    if image.mode not in _TRANSPARENT and "transparency" not in image.info:
        return False
    alpha = image if image.mode in ("LA", "RGBA") else _ordinary(image).convert("RGBA")
    return int(np.asarray(alpha.getchannel("A")).min()) < 255


def _fault(error: Exception) -> str:
    match error:
        case _NoPictureError():
            return str(error)
        case FileNotFoundError():
            return MISSING
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
