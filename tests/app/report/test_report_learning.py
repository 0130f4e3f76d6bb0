"""What the report says of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subbyte.app.curves import Recorder
from subbyte.app.report.page.learning import learning_of
from subbyte.app.report.page.reading import Entry

LEARNED = {"blocks": [{"block": "conv1", "seconds": 1.0, "fell_back": False}]}
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


def test_losses_of_images_held_out_are_drawn_beside_those_of_the_same_try(tmp_path: Path) -> None:
    recorder = Recorder()
    for step, loss in enumerate([4.0, 2.0]):
        recorder.loss("learning", "conv1", step, loss, held_out=False)
        recorder.loss("learning", "conv1", step, 10 * loss, held_out=True)
    for loss in (8.0, 6.0):  # two tries
        recorder.loss("tuning", "", 0, loss, held_out=True)
        recorder.loss("tuning", "", 0, loss / 2, held_out=False)
        recorder.loss("tuning", "", 1, loss / 4, held_out=False)
        recorder.loss("tuning", "", 2, loss - 1, held_out=True)
    recorder.write(tmp_path)
    found = learning_of(Entry("w4a8", tmp_path, {"method": "subbyte", **LEARNED}))
    drawn = [(curve["title"], curve["losses"], curve["held_out"]) for curve in found.curves]
    assert drawn == [
        ("learning: conv1", [4, 2], [[0, 40], [1, 20]]),
        ("tuning", [4, 2], [[0, 8], [2, 7]]),
        ("tuning (try 2)", [3, 1.5], [[0, 6], [2, 5]]),
    ]
    (block,) = found.blocks
    assert (block.first, block.last) == (4, 2)
