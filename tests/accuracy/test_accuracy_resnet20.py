"""ResNet-20's published weights on all of CIFAR-10's test images: what must be reached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from processor import exact_sums
from subbyte.app import experiment
from subbyte.app import runner as pipeline

DATA = Path(os.environ.get("SUBBYTE_DATA", "")) / "cifar10"
YAML = Path(__file__).parents[2] / "benchmarks" / "cifar10_resnet20.yaml"

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(
        "SUBBYTE_DATA" not in os.environ, reason="SUBBYTE_DATA, a folder of real data, is not set"
    ),
]


@exact_sums
def test_deployed_accuracy_is_what_the_documentation_says(tmp_path: Path) -> None:
    loaded = experiment.load(
        str(YAML),
        [
            f"model.checkpoint={DATA / 'resnet20-12fca82f.th'}",
            f"data.calibration={DATA / 'train'}",
            f"data.evaluation={DATA / 'test'}",
            "variants.w4a4.method={name: bias_correction, images: 128}",
            "variants.default={weights: 4, activations: 4}",
        ],
    )
    _, results = pipeline.run(loaded, tmp_path / "run", only=("w8a8", "w4a4", "default"))
    assert results["float"]["images"] == 10_000
    entries = {entry["name"]: entry for entry in results["variants"]}
    for entry in (results["float"], *results["float"]["deployed"].values()):
        assert entry["metrics"]["top1"] == pytest.approx(0.8103, abs=0.0002)
    for name, least in (("w8a8", 0.808), ("w4a4", 0.778), ("default", 0.802)):
        simulated = entries[name]["metrics"]["top1"]
        assert simulated >= least
        for deployed in entries[name]["deployed"].values():
            assert deployed["metrics"]["top1"] == pytest.approx(simulated, abs=0.003)
            assert deployed["agreement"] >= 0.985
            assert deployed["int8_ops"] == deployed["int8_candidates"] == 20
