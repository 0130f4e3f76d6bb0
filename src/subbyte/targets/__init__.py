"""Where a file runs: one file a target."""

from __future__ import annotations

from subbyte.placement.placement import TargetHints

HINTS = (
    TargetHints("onnxruntime", quantized_results=True),
    TargetHints("openvino", quantized_results=False),
)


def hints() -> tuple[TargetHints, ...]:
    """What placement has to know of each target."""
    return HINTS
