"""What a diagnosis says, as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from subbyte.diagnosis.errors import decibels

SCHEMA = 1
DIGITS = 5
ERRORS = ("own", "alone", "accumulated")


@dataclass(frozen=True)
class Channels:
    """Ranges of a weight channel by channel; of many channels neighbours are joined.

    Attributes:
        count: How many channels the weight has.
        low: The least float value of each.
        high: The greatest.
        grid_low: What the lowest integer stands for.
        grid_high: What the highest integer stands for.
    """

    count: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    grid_low: tuple[float, ...]
    grid_high: tuple[float, ...]


@dataclass(frozen=True)
class QuantizedWeight:
    """A layer's weight.

    Attributes:
        bits: Of its integers.
        symmetric: Whether its zero point is 0.
        per_channel: Whether each channel has a scale of its own.
        values: How many numbers it has.
        sqnr_db: Its energy over that of its rounding; `None` without any error.
        low: The least float value.
        high: The greatest.
        channels: Range by range.
    """

    bits: int
    symmetric: bool
    per_channel: bool
    values: int
    sqnr_db: float | None
    low: float
    high: float
    channels: Channels


@dataclass(frozen=True)
class Histogram:
    """How often values occur, in bins of one width from `low` to `high`."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class QuantizedActivation:
    """A tensor that a layer reads.

    Attributes:
        tensor: Its `layer` in `subbyte.layers`.
        bits: Of its integers.
        symmetric: Whether its zero point is 0, before it is stored.
        scale: What one step is worth.
        zero_point: The integer of 0.
        grid_low: What the lowest integer stands for: values below are clipped.
        grid_high: What the highest integer stands for: values above are clipped.
        steps: How many integers there are.
        sqnr_db: The energy of its values over that of their quantization error.
        clipped: The share of the values that lie beyond the grid.
        clipped_calibration: The same on calibration images; `None` where nobody counted.
        low: The least value.
        high: The greatest.
        histogram: Of the values; `None` where it never ran.
        readers: All layers that read it.
    """

    tensor: str
    bits: int
    symmetric: bool
    scale: float
    zero_point: int
    grid_low: float
    grid_high: float
    steps: int
    sqnr_db: float | None
    clipped: float | None
    clipped_calibration: float | None
    low: float | None
    high: float | None
    histogram: Histogram | None
    readers: tuple[str, ...]


@dataclass(frozen=True)
class LayerErrors:
    """A layer, or a quantized tensor that no layer reads, and its errors.

    Errors are relative: the energy of the error over that of the float values.

    Attributes:
        layer: Its qualified name.
        kind: "conv", "linear", "matmul"; "operation": a tensor that no layer reads.
        region: The region that it is in; "" is the whole model.
        left_in_float: Why nothing of it is quantized; empty where something is.
        weight: Its weight; `None`: in float, or it has none.
        activations: What it reads that is quantized.
        own_error: At what it gives, all other layers in float.
        alone_error: At the model's raw outputs, all other layers in float.
        alone_loss: The same in the output loss.
        alone_share: Of the sum of all layers' `alone_loss`.
        accumulated_error: At what it gives, everything quantized.
    """

    layer: str
    kind: str
    region: str
    left_in_float: str
    weight: QuantizedWeight | None
    activations: tuple[QuantizedActivation, ...]
    own_error: float | None = None
    alone_error: float | None = None
    alone_loss: float | None = None
    alone_share: float | None = None
    accumulated_error: float | None = None


@dataclass(frozen=True)
class Advice:
    """A layer that loses much, and what usually helps.

    Attributes:
        layers: Their names.
        sentence: What is wrong.
        helps: What usually helps.
        overrides: A line for a recipe in YAML; empty where nothing in it would help.
    """

    layers: tuple[str, ...]
    sentence: str
    helps: str
    overrides: str


@dataclass(frozen=True)
class Diagnosis:
    """Where the error of a quantized model comes from.

    Attributes:
        images: On how many images everything but what layers add alone was measured.
        alone_images: On how many each layer was quantized alone.
        seconds: The time it took.
        output_error: Of the raw outputs, relative; the mean of all of them.
        outputs: Output → its relative error.
        loss: The output loss, a mean over images.
        layers: In the order of the network.
        summary: A sentence on the whole.
        advice: The worst layers first.
    """

    images: int
    alone_images: int
    seconds: float
    output_error: float | None
    outputs: dict[str, float | None]
    loss: float | None
    layers: tuple[LayerErrors, ...]
    summary: str
    advice: tuple[Advice, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: with errors in dB beside, five significant digits, `None` for NaN."""
        plain = asdict(self)
        plain["output_db"] = decibels(self.output_error)
        for layer in plain["layers"]:
            for kind in ERRORS:
                layer[f"{kind}_db"] = decibels(layer[f"{kind}_error"])
        return {"schema": SCHEMA, **_rounded(plain)}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(its) for key, its in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(its) for its in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
