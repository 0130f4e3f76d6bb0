"""What a target says of itself: what it can represent, for users and for refusals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What a target is.

    Attributes:
        title: What its files are, in a few words.
        weights: Which weights it can represent.
        activations: Which activations.
        layers: Which layers have integer kernels there.
        detectors: Whether its files go to boxes, or hold the raw outputs.
        extra: The extra of Subbyte that installs what it needs; `None`: it needs nothing.
        suffix: How its files are called where the target writes them itself.
        own_files: It runs files that are written for it, and no others.
        boxes: Its files hold a detector's way to boxes.
    """

    title: str
    weights: str = "2 to 8 bits, one scale for the tensor or one for each channel"
    activations: str = "2 to 8 bits, one scale and zero point for the tensor"
    layers: str = "convolutions, linear layers and matrix products"
    detectors: str = "whole, to boxes"
    extra: str | None = None
    suffix: str = ".onnx"
    own_files: bool = False
    boxes: bool = True
