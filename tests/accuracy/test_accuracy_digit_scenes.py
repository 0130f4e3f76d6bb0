"""The bundled experiment with a detector, in part and whole, against what it is to reach."""

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
def test_at_8_bits_the_bundled_detector_keeps_its_boxes(tmp_path: Path) -> None:
    settings = [f"variants.w8a8.{key}={value}" for key, value in FITTING.items()]
    settings += ["data.evaluation_images=100", "data.calibration_images=64"]
    chosen = experiment.load("digit-scenes", settings)
    folder, results = pipeline.run(chosen, tmp_path / "run", only=("w8a8",))
    (variant,) = results["variants"]
    best = results["float"]["metrics"]["AP"]
    assert best >= 0.75
    assert best - variant["metrics"]["AP"] <= 0.01
    assert set(variant["deployed"]) == {"onnxruntime", "openvino"}
    for deployed in variant["deployed"].values():
        assert deployed["images"] == 100
        assert deployed["metrics"]["AP"] == pytest.approx(deployed["simulated"]["AP"], abs=0.005)
    assert (folder / "variants/w8a8/scenes.png").is_file()


@pytest.mark.whole
def test_at_all_bits_it_keeps_them_on_all_scenes(tmp_path: Path) -> None:
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
