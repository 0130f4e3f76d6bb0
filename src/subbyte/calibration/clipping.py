"""How much of the activations is clipped, on the evaluation images and on those of calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from subbyte.numerics.fake_quantize import Clipping, FakeQuantize
from subbyte.placement.simulation import Simulation

# A layer's share is reported if it is above MORE · calibration's + BEYOND. On images like those of
# calibration the excess over MORE · calibration's was at most 0.0003 at any layer (the digits,
# ResNet-20 and MobileNetV2, three range rules, 8 to 2 bits); on images of 1.4 times the brightness
# at least 0.15.
MORE, BEYOND = 2.0, 0.01


@contextmanager
def counting(model: nn.Module) -> Iterator[list[Clipping]]:
    """While it lasts, the activations' quantizers of a simulation count what they clip.

    Gives one `Clipping` for each tensor of the placement, in their order; those of weights, and all
    of a model that is not a simulation, stay empty.
    """
    activations = dict(_activations(model))
    tensors = model.placement.tensors if isinstance(model, Simulation) else ()
    counts = [Clipping() for _ in tensors]
    for tensor, count in zip(tensors, counts, strict=True):
        if tensor.key in activations:
            activations[tensor.key].clipping = count
    try:
        yield counts
    finally:
        for quantizer in activations.values():
            quantizer.clipping = None


@contextmanager
def not_counting(model: nn.Module) -> Iterator[None]:
    """While it lasts, nothing is counted of what a simulation clips."""
    before = [(quantizer, quantizer.clipping) for _, quantizer in _activations(model)]
    for quantizer, _ in before:
        quantizer.clipping = None
    try:
        yield
    finally:
        for quantizer, clipping in before:
            quantizer.clipping = clipping


def _activations(model: nn.Module) -> list[tuple[str, FakeQuantize]]:
    return [(t.key, q) for t, q in model.activations()] if isinstance(model, Simulation) else []


def share(*counts: Clipping) -> float | None:
    """The share of the values that were clipped; `None` where there were no values."""
    values = sum(count.values for count in counts)
    return sum(int(count.clipped) for count in counts) / values if values else None


def note(
    model: Simulation, evaluated: Sequence[Clipping], calibrated: Sequence[Clipping]
) -> str | None:
    """A sentence where a layer clips much more of the evaluation images than of calibration's.

    Clipping alone is not a fault, because range rules clip on purpose: see `MORE` and `BEYOND`.

    Args:
        model: The simulation that clipped.
        evaluated: What each tensor of its placement clipped of the evaluation images.
        calibrated: The same of the calibration images.
    """
    found = []
    for tensor, *both in zip(model.placement.tensors, evaluated, calibrated, strict=True):
        now, before = (share(clipping) for clipping in both)
        if now is not None and before is not None and now > MORE * before + BEYOND:
            found.append((now, before, tensor.layer))
    if not found:
        return None
    now, before, layer = max(found)
    others = len(found) - 1
    more = f" ({others} more such {'tensor' if others == 1 else 'tensors'})" if others else ""
    return (
        f"at {layer}, {now:.1%} of the values are clipped on the evaluation images and "
        f"{before:.1%} on those of calibration{more}: calibrate on images like the evaluated ones"
    )
