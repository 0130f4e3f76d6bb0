"""Images of any sizes as the one tensor size that a detector's file takes, and boxes back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

HeightWidth = tuple[int, int]  # height and width in pixels
Sizes = Collection[HeightWidth]


@dataclass(frozen=True)
class Letterbox:
    """The size of a file's images, and how an image of another size gets it.

    Attributes:
        size: Height and width in pixels.
        fit: "stretch" both sides, as an SSD does itself, so that nothing changes; or "pad": resize
            as far as it fits, and fill up the rest.
        antialias: Resize as PIL does, else by plain bilinear interpolation.
        fill: R, G and B, in [0, 1].
        place: Where an image that is padded lies, in the upper left "corner" or in the "centre".
        by_model: The model says so, and does the same itself, so that nothing changes.
    """

    size: HeightWidth
    fit: Literal["stretch", "pad"] = "stretch"
    antialias: bool = False
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)
    place: Literal["corner", "centre"] = "corner"
    by_model: bool = False

    def images(self, images: Sequence[Tensor]) -> Tensor:
        """Images [3, h, w] of any sizes as [N, 3, H, W]."""
        return torch.cat([self.fitted(image[None]) for image in images])

    def fitted(self, images: Tensor) -> Tensor:
        """Images [N, 3, h, w] of one size as [N, 3, H, W]."""
        inner = self._inner((images.shape[-2], images.shape[-1]))
        if inner != tuple(images.shape[-2:]):
            images = interpolate(
                images, inner, mode="bilinear", align_corners=False, antialias=self.antialias
            )
        above, left = self._corner(inner)
        below, right = self.size[0] - inner[0] - above, self.size[1] - inner[1] - left
        if not any((left, right, above, below)):
            return images
        fill = images.new_tensor(self.fill).view(3, 1, 1)
        return pad(images - fill, (left, right, above, below)) + fill

    def in_pixels(self, boxes: Tensor, size: HeightWidth) -> Tensor:
        """Boxes [..., 4] in the file's image in pixels of the image of `size`, not clipped."""
        inner = self._inner(size)
        if inner == size == self.size:
            return boxes
        above, left = self._corner(inner)
        factors = [size[1] / inner[1], size[0] / inner[0]] * 2
        return (boxes - boxes.new_tensor([left, above] * 2)) * boxes.new_tensor(factors)

    def back(self, found: Mapping[str, np.ndarray], size: HeightWidth) -> dict[str, np.ndarray]:
        """Detections in the file's image in pixels of the image of `size` that it was made of.

        `boxes` (n, 4), and `scores` and `labels` (n). Boxes are clipped to a padded image; those
        that lie in the padding are left out.
        """
        (height, width), (high, wide) = self._inner(size), size
        if (height, width) == size and self.fit == "stretch":
            return dict(found)
        above, left = self._corner((height, width))
        boxes = found["boxes"] - np.array([left, above] * 2, np.float32)
        boxes = boxes * np.array([wide / width, high / height] * 2, np.float32)
        if self.fit == "stretch":
            return {**found, "boxes": boxes}
        boxes = np.clip(boxes, 0, np.array([wide, high] * 2, np.float32))
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return {key: value[inside] for key, value in {**found, "boxes": boxes}.items()}

    def metadata(self) -> dict[str, Any]:
        """The same as plain data, for a file's metadata."""
        return {
            "size": list(self.size),
            "fit": self.fit,
            "antialias": self.antialias,
            "fill": list(self.fill),
            "place": self.place,
        }

    def _inner(self, size: HeightWidth) -> HeightWidth:
        """Height and width that an image of `size` is resized to."""
        if self.fit == "stretch":
            return self.size
        factor = min(self.size[0] / size[0], self.size[1] / size[1])
        height, width = (max(1, round(side * factor)) for side in size)
        return min(height, self.size[0]), min(width, self.size[1])

    def _corner(self, inner: HeightWidth) -> HeightWidth:
        """Rows above and columns left of an image that is resized to `inner`."""
        if self.place == "corner":
            return 0, 0
        return (self.size[0] - inner[0]) // 2, (self.size[1] - inner[1]) // 2


def ratio_kept(model: Any, sizes: Sizes) -> Letterbox:
    """The letterbox for a model that keeps the ratio of the sides.

    It is as high as the highest image and as wide as the widest, and no larger than the model's
    `transform`, if it has one such as torchvision's, lets images be.
    """
    transform: Any = getattr(model, "transform", None)
    sides = max(h for h, _ in sizes), max(w for _, w in sizes)
    factor = min(1.0, getattr(transform, "max_size", max(sides)) / max(sides))
    height, width = (round(side * factor) for side in sides)
    mean = getattr(transform, "image_mean", (0.0, 0.0, 0.0))
    return Letterbox((height, width), "pad", fill=tuple(map(float, mean)))


def letterbox_of(metadata: Mapping[str, Any]) -> Letterbox:
    """The letterbox that a file's metadata describes, as `Letterbox.metadata` gives it."""
    height, width = metadata["size"]
    return Letterbox(
        (height, width),
        metadata["fit"],
        metadata["antialias"],
        tuple(metadata["fill"]),
        metadata.get("place", "corner"),  # files of earlier versions have none
    )
