"""Decoded images, kept in memory up to a limit."""

from __future__ import annotations

import threading
from pathlib import Path

from PIL import Image
from torch import Tensor

from subbyte.data.images import opened
from subbyte.data.preprocessing import Preprocessing
from subbyte.data.transform import pixels_of
from subbyte.errors import SubbyteError

LIMIT = 2**30  # bytes of pixels that one set of images keeps: 7,000 images of 224 × 224


class Decoded:
    """The pixels of image files: resized and cropped, uint8 [C, H, W], not yet normalized.

    Those that fit into `limit` bytes are decoded once and kept, in the order in which they come;
    all others are decoded each time. Nothing that was kept is given up for another, because images
    are walked in order again and again. Several threads may use it.
    """

    def __init__(self, preprocessing: Preprocessing, limit: int = LIMIT) -> None:
        self.preprocessing = preprocessing
        self.full = False
        self._left = limit
        self._kept: dict[Path, Tensor] = {}
        self._lock = threading.Lock()

    @property
    def enough(self) -> int | None:
        """The short side in pixels at which a large file may be decoded; `None`: only as it is."""
        resize = self.preprocessing.resize
        # Twice the size that is wanted: resizing then still averages over several pixels.
        return None if resize is None else 2 * (resize if isinstance(resize, int) else max(resize))

    def __contains__(self, path: Path) -> bool:
        return path in self._kept

    def pixels(self, path: Path) -> Tensor:
        """The pixels of an image; raises `SubbyteError` if its file is missing or broken."""
        known = self._kept.get(path)
        if known is not None:
            return known
        with opened(path, self.enough) as image:
            return self._keep(path, prepared(image, str(path), self.preprocessing))

    def take(self, path: Path, image: Image.Image) -> None:
        """Keep an image that is decoded already, as `images.opened` gives it."""
        try:
            self._keep(path, prepared(image, str(path), self.preprocessing))
        except SubbyteError:  # reported where the image is used
            return

    def _keep(self, path: Path, pixels: Tensor) -> Tensor:
        with self._lock:
            if not self.full and path not in self._kept:
                self._left -= pixels.numel()
                self.full = self._left < 0
                if not self.full:
                    self._kept[path] = pixels
        return pixels


def prepared(image: Image.Image, name: str, preprocessing: Preprocessing) -> Tensor:
    """An image resized and cropped: uint8 [C, H, W].

    Args:
        image: The decoded image.
        name: What to call it in a message.
        preprocessing: How it is resized and cropped.

    Raises:
        SubbyteError: That cannot be done.
    """
    try:
        return pixels_of(image, preprocessing)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SubbyteError(f"{name} cannot be prepared as a model's input ({reason})") from error
