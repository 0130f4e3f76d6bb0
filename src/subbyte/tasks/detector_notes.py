"""What is said of the images that a detector's files take."""

from __future__ import annotations

import torch

from subbyte.detectors import own_letterbox
from subbyte.detectors.letterbox import HeightWidth, Letterbox


def size_notes(model: torch.nn.Module, letterbox: Letterbox, sizes: set[HeightWidth]) -> list[str]:
    """What is done because files take images of one size.

    Nothing is to be said where all images have the size that the network works on.

    Args:
        model: The detector.
        letterbox: How its files take images.
        sizes: Those of the images.
    """
    height, width = letterbox.size
    if sizes == {letterbox.size} and letterbox.by_model:
        return []
    if len(sizes) == 1 and not letterbox.by_model:
        own = own_letterbox(model, sizes)
        if own.fit == "stretch" and own.size == letterbox.size:
            return []
        resized = ""
        if own.fit == "stretch":
            resized = f", which they resize to the network's {own.size[0]} × {own.size[1]}"
        return [
            f"all images are {height} high and {width} wide, and files take this size alone"
            f"{resized}; an image of another size is stretched to it"
        ]
    how = {
        "stretch": "to which images are stretched, as by the model itself",
        "pad": "to which images are resized as far as they fit, and filled up; the simulation of "
        "the file sees them so too, the others see images as they are",
    }
    done = how[letterbox.fit]
    if letterbox.by_model and letterbox.fit == "pad":
        done = "to which images are resized as far as they fit, and filled up, as by the model"
    count = f"{len(sizes)} sizes" if len(sizes) > 1 else "one size"
    return [f"images are of {count}, and files take one, {height} high and {width} wide, {done}"]
