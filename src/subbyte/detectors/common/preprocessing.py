"""From images to what a detector's network reads: normalization, resizing and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad


class ImagePreprocessing(nn.Module):
    """Images [N, 3, H, W] in [0, 1], of one size, as a network's batch.

    Args:
        mean: Of R, G and B, on the scale of 0 to 1.
        std: The same.
        given: Height and width of the images, in pixels.
        resized: The size to which images are resized by bilinear interpolation, if it is another.
        padded: The size to which images are padded with zeros, on the right and below; `None`: as
            resized.
        antialias: Resize as PIL does, else by plain bilinear interpolation.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        given: tuple[int, int],
        resized: tuple[int, int],
        padded: tuple[int, int] | None = None,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.given, self.resized, self.padded = given, resized, padded or resized
        self.antialias = antialias

    def forward(self, images: Tensor) -> Tensor:
        """The batch [N, 3, padded height, padded width]."""
        batch = (images - self.get_buffer("mean")) / self.get_buffer("std")
        if self.resized != self.given:
            batch = interpolate(
                batch,
                size=self.resized,
                mode="bilinear",
                align_corners=False,
                antialias=self.antialias,
            )
        below, right = (p - r for p, r in zip(self.padded, self.resized, strict=True))
        return pad(batch, (0, right, 0, below)) if below or right else batch

    def in_pixels(self, boxes: Tensor) -> Tensor:
        """Boxes [..., 4] of the resized image in pixels of the one that was given."""
        if self.resized == self.given:
            return boxes
        y, x = (g / r for g, r in zip(self.given, self.resized, strict=True))
        return boxes * boxes.new_tensor([x, y, x, y])


def preprocessing_of(transform: Any, given: tuple[int, int]) -> ImagePreprocessing:
    """What torchvision's `GeneralizedRCNNTransform` does to images of one size."""
    with torch.no_grad():
        batch, _ = transform([torch.zeros(3, *given)])
    mean, std = list(transform.image_mean), list(transform.image_std)
    resized, padded = tuple(batch.image_sizes[0]), tuple(batch.tensors.shape[-2:])
    return ImagePreprocessing(mean, std, given, resized, padded)
