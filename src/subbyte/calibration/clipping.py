"""How much of the activations is clipped, on the evaluation images and on those of calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Captured

# A layer's share is told if it is above MORE · calibration's + BEYOND. On images like those of
# calibration the excess over MORE · calibration's was at most 0.0003 at any layer (the digits,
# ResNet-20 and MobileNetV2, three range rules, 8 to 2 bits); on images of 1.4 times the brightness
# at least 0.15. docs/ranges.md has the measurement.
MORE, BEYOND = 2.0, 0.01


@contextmanager
def counting(model: nn.Module) -> Iterator[list[Clipping]]:
    """While it lasts, the activations' grids of a quantized model count what they clip.

    Gives one `Clipping` for each of the model's `tensors`, in their order; those of weights, and
    all of a model without grids, stay empty.
    """
    quantizers = list(model.quantizers()) if isinstance(model, Captured) else []
    counts = [Clipping() for _ in quantizers]
    for (tensor, quantizer), count in zip(quantizers, counts, strict=True):
        quantizer.clipping = count if tensor.role == "activation" else None
    try:
        yield counts
    finally:
        for _, quantizer in quantizers:
            quantizer.clipping = None


def share(*counts: Clipping) -> float | None:
    """The share of the values that were clipped; `None` where there were no values."""
    values = sum(count.values for count in counts)
    return sum(int(count.clipped) for count in counts) / values if values else None


def note(
    model: Captured, evaluated: Sequence[Clipping], calibrated: Sequence[Clipping]
) -> str | None:
    """A sentence where a layer clips much more of the evaluation images than of calibration's.

    Clipping alone says nothing, because range rules clip on purpose: see `MORE` and `BEYOND`.
    """
    found = []
    for tensor, one, other in zip(model.tensors, evaluated, calibrated, strict=True):
        now, before = share(one), share(other)
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
