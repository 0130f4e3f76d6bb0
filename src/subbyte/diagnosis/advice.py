"""Which layers are at fault, what usually helps, and the line for a recipe that does it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subbyte.calibration.clipping import BEYOND, MORE
from subbyte.diagnosis.errors import decibels
from subbyte.diagnosis.result import Advice, LayerErrors, QuantizedActivation

MOST = 3  # layers that are named
STANDS_OUT = 3.0  # times the mean share, from which on a layer is named
LEAST = 0.05  # of what all layers add, which it has at least
NEGLIGIBLE = 30.0  # dB of the outputs, from which on nothing needs to be mended
MOSTLY = 0.67  # of what a layer adds, which its weight or what it reads has alone
FULL = 8  # bits
CLIPPED = 0.01  # of a tensor's values, from which on its range is too narrow


@dataclass(frozen=True)
class _Mend:
    """What usually helps a layer.

    Attributes:
        cause: What is wrong.
        helps: What to do.
        fields: Of an override; empty where no field would help.
    """

    cause: str
    helps: str
    fields: str = ""


def of(
    layers: Sequence[LayerErrors], output_error: float | None, causes: Mapping[str, float]
) -> tuple[str, tuple[Advice, ...]]:
    """A sentence on the whole, and advice on the worst layers, worst first.

    Args:
        layers: What was measured of each.
        output_error: Of the outputs, relative.
        causes: Of some layers, how much of what each adds alone comes from its weight.
    """
    measured = [layer for layer in layers if layer.alone_share is not None]
    db = decibels(output_error)
    if output_error is None:
        whole = "the outputs cannot be compared with the float model's, because their shapes differ"
    elif db is None:
        return "the outputs are those of the float model", ()
    else:
        whole = f"the outputs' SQNR is {db:.1f} dB"
    if not measured:
        return whole, ()
    if db is not None and db > NEGLIGIBLE:
        return f"{whole}: the error is small everywhere, and nothing needs to be mended", ()
    worst = sorted(measured, key=lambda layer: -(layer.alone_share or 0.0))
    least = max(LEAST, STANDS_OUT / len(measured)) if len(measured) > MOST else LEAST
    named = [layer for layer in worst[:MOST] if (layer.alone_share or 0.0) >= least]
    if not named:
        share = worst[0].alone_share or 0.0
        return (
            f"{whole}; no layer stands out, {worst[0].layer} adds most with {share:.0%}: give all "
            "layers more bits, a method that learns or more calibration images",
            (),
        )
    together = sum(layer.alone_share or 0.0 for layer in named)
    names = ", ".join(layer.layer for layer in named)
    adds = "adds" if len(named) == 1 else "add"
    summary = f"{whole}; {names} {adds} {together:.0%} of what all layers add alone"
    return summary, tuple(_advice(layer, causes.get(layer.layer)) for layer in named)


def _advice(layer: LayerErrors, from_weight: float | None) -> Advice:
    mend = _mend(layer, from_weight)
    share = f"{layer.layer} adds {layer.alone_share or 0.0:.0%} of what all layers add alone"
    line = f"overrides: {{{_quoted(re.escape(layer.layer))}: {{{mend.fields}}}}}"
    return Advice(
        layers=(layer.layer,),
        sentence=f"{share}: {mend.cause}",
        helps=mend.helps,
        overrides=line if mend.fields else "",
    )


def _mend(layer: LayerErrors, from_weight: float | None) -> _Mend:
    """What is wrong with a layer: its images, its weight, what it reads, or the grid itself."""
    unlike = next(filter(_is_unlike, layer.activations), None)
    if unlike is not None:
        return _Mend(
            f"{unlike.clipped:.1%} of the values that it reads are clipped on these images, and "
            f"{unlike.clipped_calibration:.1%} on those of calibration",
            "calibrate on images like the evaluated ones",
        )
    if layer.kind == "operation":
        return _of_operation(layer)
    bits_w = None if layer.weight is None else layer.weight.bits
    bits_a = min((its.bits for its in layer.activations), default=None)
    if from_weight is None:
        from_weight = 0.5 if None not in (bits_w, bits_a) else float(bits_a is None)
    if from_weight >= MOSTLY:
        return _of_weight(layer, bits_w or FULL)
    if from_weight <= 1 - MOSTLY:
        return _of_activation(layer, bits_a or FULL)
    narrow = {"weights": bits_w, "activations": bits_a}
    fields = ", ".join(f"{role}: {FULL}" for role, bits in narrow.items() if (bits or FULL) < FULL)
    cause = f"its weight of {bits_w} bits and what it reads, of {bits_a} bits, both do"
    if fields:
        return _Mend(cause, f"give it {FULL} bits", fields)
    return _Mend(cause, "leave it in float", "weights: null, activations: null")


def _of_weight(layer: LayerErrors, bits: int) -> _Mend:
    cause = f"its weight of {bits} bits does"
    if bits < FULL:
        return _Mend(cause, f"give its weight {FULL} bits", f"weights: {FULL}")
    assert layer.weight is not None
    if not layer.weight.per_channel:
        cause += ", which has one scale for all channels"
        return _Mend(cause, "give each channel a scale of its own", "per_channel: true")
    return _Mend(cause, "leave its weight in float", "weights: null")


def _of_activation(layer: LayerErrors, bits: int) -> _Mend:
    cause = f"what it reads, of {bits} bits, does"
    if bits < FULL:
        return _Mend(cause, f"give what it reads {FULL} bits", f"activations: {FULL}")
    wide = next(filter(_is_stretched, layer.activations), None)
    if wide is not None:
        cause += ", whose grid a few large values stretch"
        rule = "ranges: {activations: {name: percentile, percentile: 99.9}}"
        return _Mend(cause, "cut the large values off, or leave what it reads in float", rule)
    return _Mend(cause, "leave what it reads in float", "activations: null")


def _of_operation(layer: LayerErrors) -> _Mend:
    (tensor,) = layer.activations
    if tensor.bits < FULL:
        return _Mend(f"it has {tensor.bits} bits", "give it more bits")
    cause = f"it is quantized to {tensor.bits} bits for what reads it"
    if tensor.clipped is not None:
        cause += f", and {tensor.clipped:.1%} of its values are clipped"
    if (tensor.clipped or 0.0) > CLIPPED:
        return _Mend(cause, "use wider ranges, as ranges: {activations: minmax}")
    rule = "ranges: {activations: {name: percentile, percentile: 99.9}}"
    return _Mend(cause, f"use narrower ranges, as {rule}, whose steps are finer")


def _is_unlike(tensor: QuantizedActivation) -> bool:
    """Whether it clips much more of these images than of those of calibration."""
    now, before = tensor.clipped, tensor.clipped_calibration
    return now is not None and before is not None and now > MORE * before + BEYOND


def _is_stretched(tensor: QuantizedActivation) -> bool:
    """Whether most of its grid holds next to none of its values."""
    if tensor.histogram is None or not tensor.grid_low < tensor.grid_high:
        return False
    counts, low, high = tensor.histogram.counts, tensor.histogram.low, tensor.histogram.high
    width = (high - low) / len(counts)
    total, seen = sum(counts), 0
    inner = [low, high]
    for side, order in ((0, range(len(counts))), (1, range(len(counts) - 1, -1, -1))):
        seen = 0
        for i in order:
            seen += counts[i]
            if seen > 0.0005 * total:
                inner[side] = low + (i + side) * width
                break
    used = min(inner[1], tensor.grid_high) - max(inner[0], tensor.grid_low)
    return used < 0.25 * (tensor.grid_high - tensor.grid_low)


def _quoted(pattern: str) -> str:
    """A string of YAML that reads back to the same."""
    return "'" + pattern.replace("'", "''") + "'"
