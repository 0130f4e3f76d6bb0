"""What there is to say of each quantized tensor, as plain data."""

from __future__ import annotations

from typing import Any

from subbyte.calibration.observe import weight_sqnr_db
from subbyte.numerics.fake_quantize import Quantizer
from subbyte.placement.placement import QuantizedTensor
from subbyte.placement.simulation import Simulation


def layer_table(simulation: Simulation) -> list[dict[str, Any]]:
    """One dictionary for each quantized tensor, with the keys that `subbyte.layers` documents."""
    return [_row(simulation, tensor, q) for tensor, q in simulation.quantizers()]


def _row(simulation: Simulation, tensor: QuantizedTensor, quantizer: Quantizer) -> dict[str, Any]:
    single = tensor.spec.axis is None
    scale, zero_point = quantizer.scale.tolist(), quantizer.zero_point.tolist()
    return {
        "layer": tensor.layer,
        "role": tensor.role,
        "bits": tensor.spec.bits,
        "symmetric": tensor.spec.symmetric,
        "per_channel": not single,
        "scale": scale[0] if single else scale,
        "zero_point": zero_point[0] if single else zero_point,
        "sqnr_db": _sqnr_db(simulation, tensor, quantizer),
        "readers": list(tensor.readers),
    }


def _sqnr_db(simulation: Simulation, tensor: QuantizedTensor, quantizer: Quantizer) -> float | None:
    value, params = quantizer.sqnr_db, quantizer.params
    if tensor.role == "weight" and params is not None:
        value = weight_sqnr_db(simulation.weight(tensor), params, tensor.spec)
    return None if value is None or value == float("inf") else value
