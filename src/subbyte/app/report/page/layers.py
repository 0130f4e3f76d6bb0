"""Layers of a variant in network order: what each adds, and what has added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subbyte.app.report.page import words
from subbyte.app.report.page.reading import Entry

DIAGNOSIS = "diagnosis.json"
BAD_DB, WATCH_DB = 10.0, 20.0


@dataclass(frozen=True)
class LayerRow:
    """A layer's line.

    Attributes:
        number: Its place in the network, from 0 on.
        name: Its name.
        kind: "conv", "linear" and so on.
        weight_bits: As text; empty where it has none that is quantized.
        activation_bits: Of what it reads.
        weight_db: SQNR of its weight.
        activation_db: SQNR of what it reads, the worst of several.
        clipped_calibration: The share of what it reads that is clipped, on calibration images.
        clipped: The same on evaluation images.
        alone_db: At the model's outputs, all other layers in float.
        share: Its share of what all layers lose alone.
        accumulated_db: At its own output, everything quantized.
        left_in_float: Why nothing of it is quantized.
        has_detail: Whether there are histograms or ranges to show.
    """

    number: int
    name: str
    kind: str
    weight_bits: str
    activation_bits: str
    weight_db: float | None
    activation_db: float | None
    clipped_calibration: float | None
    clipped: float | None
    alone_db: float | None
    share: float | None
    accumulated_db: float | None
    left_in_float: str
    has_detail: bool


@dataclass(frozen=True)
class Layers:
    """What is shown of a variant's layers.

    Attributes:
        rows: The layers, in network order.
        diagnosed: Whether errors were measured, on how many images, and on how many of each alone.
        images: On how many images errors were measured.
        alone_images: On how many each layer was measured alone.
        output_db: SQNR at the outputs.
        advice: The worst layers: sentence, what helps, a line of YAML.
        chart: What the charts are drawn from.
    """

    rows: Sequence[LayerRow]
    diagnosed: bool
    images: int
    alone_images: int
    output_db: float | None
    advice: Sequence[Mapping[str, Any]]
    chart: Mapping[str, Any]


def layers_of(entry: Entry, points: int) -> Layers:
    """What is shown of a variant's layers.

    Args:
        entry: The variant.
        points: How many points a band of channels has at most.
    """
    found = entry.json(DIAGNOSIS)
    if found is None:
        rows = _tensors(entry.rows("layers.csv"))
        return Layers(rows, False, 0, 0, None, (), {})
    layers = found.get("layers") or []
    return Layers(
        rows=[_row(number, layer) for number, layer in enumerate(layers)],
        diagnosed=True,
        images=found.get("images") or 0,
        alone_images=found.get("alone_images") or 0,
        output_db=_known(found.get("output_db")),
        advice=found.get("advice") or (),
        chart={"layers": [_drawn(layer, points) for layer in layers]},
    )


def alarm(db: float | None) -> str:
    """What a ratio in dB is called: "bad", "watch" or nothing."""
    if db is None or db >= WATCH_DB:
        return ""
    return "bad" if db < BAD_DB else "watch"


def _row(number: int, layer: Mapping[str, Any]) -> LayerRow:
    weight, activations = layer.get("weight") or {}, layer.get("activations") or []
    ratios = [x for x in (_known(a.get("sqnr_db")) for a in activations) if x is not None]
    return LayerRow(
        number=number,
        name=str(layer["layer"]),
        kind=str(layer["kind"]),
        weight_bits=str(weight.get("bits") or ""),
        activation_bits=", ".join(dict.fromkeys(str(a.get("bits")) for a in activations)),
        weight_db=_known(weight.get("sqnr_db")),
        activation_db=min(ratios, default=None),
        clipped_calibration=_most(activations, "clipped_calibration"),
        clipped=_most(activations, "clipped"),
        alone_db=_known(layer.get("alone_db")),
        share=_known(layer.get("alone_share")),
        accumulated_db=_known(layer.get("accumulated_db")),
        left_in_float=layer.get("left_in_float") or "",
        has_detail=bool(weight or activations),
    )


def _drawn(layer: Mapping[str, Any], points: int) -> dict[str, Any]:
    """What charts are drawn from, with few digits."""
    weight = layer.get("weight")
    keys = ("alone_db", "alone_share", "accumulated_db", "own_db")
    drawn = {
        **{key: layer.get(key) for key in keys},
        "weight": None if not weight else _weight(weight, points),
        "activations": [_activation(its) for its in layer.get("activations") or []],
    }
    return {"name": layer["layer"], **{key: words.rounded(its) for key, its in drawn.items()}}


def _weight(weight: Mapping[str, Any], points: int) -> dict[str, Any]:
    channels = weight.get("channels") or {}
    band = {key: channels.get(key) or [] for key in ("low", "high", "grid_low", "grid_high")}
    joined = {
        key: _joined(values, points, min if key.endswith("low") else max)
        for key, values in band.items()
        if all(band.values())
    }
    known = {key: weight.get(key) for key in ("bits", "low", "high", "symmetric", "sqnr_db")}
    return {**known, "count": channels.get("count"), "channels": joined}


def _joined(values: Sequence[float | None], points: int, join: Any) -> list[float | None]:
    """At most so many values: neighbours are joined."""
    size = -(-len(values) // points)
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return [join([x for x in part if x is not None], default=None) for part in parts]


def _activation(its: Mapping[str, Any]) -> dict[str, Any]:
    keys = ["tensor", "bits", "symmetric", "scale", "zero_point", "grid_low", "grid_high", "steps"]
    keys += ["sqnr_db", "clipped", "clipped_calibration", "low", "high", "histogram"]
    return {key: its.get(key) for key in keys}


def _most(activations: Sequence[Mapping[str, Any]], key: str) -> float | None:
    shares = [x for x in (_known(its.get(key)) for its in activations) if x is not None]
    return max(shares, default=None)


def _tensors(rows: Sequence[Mapping[str, str]]) -> list[LayerRow]:
    """The lines of a variant that was not diagnosed, from `layers.csv`."""
    layers: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in rows:
        layers.setdefault(row["layer"], {})[row.get("role") or "float"] = row
    found = []
    for number, (name, roles) in enumerate(layers.items()):
        weight, activation = roles.get("weight", {}), roles.get("activation", {})
        found.append(
            LayerRow(
                number=number,
                name=name,
                kind="",
                weight_bits=weight.get("bits", ""),
                activation_bits=activation.get("bits", ""),
                weight_db=_parsed(weight.get("sqnr_db")),
                activation_db=_parsed(activation.get("sqnr_db")),
                clipped_calibration=_parsed(activation.get("clipped_calibration")),
                clipped=_parsed(activation.get("clipped")),
                alone_db=None,
                share=None,
                accumulated_db=None,
                left_in_float=roles.get("float", {}).get("left_in_float", ""),
                has_detail=False,
            )
        )
    return found


def _parsed(text: str | None) -> float | None:
    return float(text) if text else None


def _known(value: Any) -> float | None:
    return value if words.is_number(value) else None
