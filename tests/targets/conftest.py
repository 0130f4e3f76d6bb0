"""One thread, so that small runs are quick and repeat, and the bundled model, quantized once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import targets_helpers as helpers

import subbyte
from processor import FITTING
from subbyte.models import build
from subbyte.placement.simulation import Simulation

Digits = Callable[..., tuple[Simulation, Path]]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """digits(weights=8, …): the bundled model on that recipe and its file, made once a recipe."""
    made: dict[str, tuple[Simulation, Path]] = {}
    calibration, _ = helpers.digit_images(128)

    def make(**fields: object) -> tuple[Simulation, Path]:
        key = repr(sorted(fields.items()))
        if key not in made:
            recipe = subbyte.Recipe(**{"method": "bias_correction", **FITTING, **fields})
            quantized = subbyte.quantize(build("digits"), [calibration], recipe)
            path = tmp_path_factory.mktemp("digits") / "model.onnx"
            subbyte.export(quantized, path, calibration[:2])
            made[key] = quantized, path
        return made[key]

    return make
