"""The bundled experiment with a detector, whole, against what it is to reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from processor import FITTING
from subbyte.app import experiment
from subbyte.app import runner as pipeline

# By how much less than the float model's AP a variant's may be.
MARGINS = {"w8a8": 0.005, "w4a8": 0.02, "w4a4": 0.05}
DEPLOYED = 0.003  # by how much a runtime's AP may be another than that of its file's simulation


@pytest.mark.slow
def test_the_bundled_detector_keeps_its_boxes(tmp_path: Path) -> None:
    settings = [
        f"variants.{name}.{key}={value}" for name in MARGINS for key, value in FITTING.items()
    ]
    folder, results = pipeline.run(experiment.load("digit-scenes", settings), tmp_path / "run")
    assert results["evaluation_images"] == 500
    best = results["float"]["metrics"]["AP"]
    assert best >= 0.75
    assert [variant["name"] for variant in results["variants"]] == list(MARGINS)
    for variant in results["variants"]:
        assert best - variant["metrics"]["AP"] <= MARGINS[variant["name"]]
        assert set(variant["deployed"]) == {"onnxruntime", "openvino"}
        for deployed in variant["deployed"].values():
            assert deployed["images"] == 500
            simulated = deployed["simulated"]["AP"]
            assert deployed["metrics"]["AP"] == pytest.approx(simulated, abs=DEPLOYED)
        assert (folder / "variants" / variant["name"] / "scenes.png").is_file()
