"""What the report says of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subbyte.app.report.page.learning import learning_of
from subbyte.app.report.page.reading import Entry

TUNED = {"steps": 29, "kept": True, "rates": 4.0, "loss_before": 0.25, "loss": 0.125}


@pytest.mark.parametrize(
    ("tuning", "sentence"),
    [
        (
            TUNED,
            "The tuning of the whole network (29 steps) was kept; the loss of images held out was "
            "0.25 before it and 0.125 behind it.",
        ),
        (
            {"steps": 0, "kept": False, "why": "images differ in size"},
            "The whole network was not tuned, because images differ in size.",
        ),
    ],
)
def test_how_a_tuning_went(tuning: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    entry = Entry("w4a8", tmp_path, {"method": "subbyte", "tuning": tuning})
    assert learning_of(entry).sentences == [sentence]
