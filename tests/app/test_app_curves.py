from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from subbyte.app.curves import FILE, POINTS, Recorder


def test_a_curve_is_thinned_to_means_of_its_steps(tmp_path: Path) -> None:
    recorder = Recorder()
    for step in range(10 * POINTS):
        recorder.loss("learning", "conv1", step, float(step), held_out=False)
    recorder.write(tmp_path)
    (curve,) = json.loads((tmp_path / FILE).read_text())["curves"]
    assert curve["steps"] == list(range(0, 10 * POINTS, 10))
    assert curve["losses"] == [10 * i + 4.5 for i in range(POINTS)]
    assert (curve["first"], curve["last"]) == (49.5, 949.5)
    assert (curve["stage"], curve["name"], curve["try"]) == ("learning", "conv1", 1)


def test_what_begins_anew_is_another_try(tmp_path: Path) -> None:
    recorder = Recorder()
    for losses in ([4.0, math.inf], [4.0, 3.0, 2.0]):
        recorder.loss("tuning", "", 0, 5.0, held_out=True)
        for step, loss in enumerate(losses):
            recorder.loss("tuning", "", step, loss, held_out=False)
    recorder.loss("tuning", "", 3, 1.0, held_out=True)
    recorder.write(tmp_path)
    curves = json.loads((tmp_path / FILE).read_text())["curves"]
    found = [(x["try"], x["held_out"], x["steps"], x["losses"]) for x in curves]
    assert found == [
        (1, True, [0], [5.0]),
        (1, False, [0, 1], [4.0, None]),
        (2, True, [0, 3], [5.0, 1.0]),
        (2, False, [0, 1, 2], [4.0, 3.0, 2.0]),
    ]


def test_who_watches_gets_each_point_once() -> None:
    seen: list[tuple[str, list[int], list[float]]] = []
    recorder = Recorder([lambda title, steps, losses: seen.append((title, steps, losses))])  # type: ignore[arg-type]
    recorder.loss("learning", "conv1", 0, 2.0, held_out=False)
    recorder.send()
    recorder.loss("learning", "conv1", 1, 1.0, held_out=False)
    recorder.send()
    recorder.send()
    assert seen == [("learning/conv1", [0], [2.0]), ("learning/conv1", [1], [1.0])]


def test_a_method_that_learns_nothing_leaves_no_file(tmp_path: Path) -> None:
    Recorder().write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 7, POINTS, POINTS + 1, 12_345])
def test_a_file_stays_small(count: int, tmp_path: Path) -> None:
    recorder = Recorder()
    for step in range(count):
        recorder.loss("learning", "conv1", step, 1 / (step + 3), held_out=False)
    recorder.write(tmp_path)
    (curve,) = json.loads((tmp_path / FILE).read_text())["curves"]
    assert len(curve["steps"]) == len(curve["losses"]) == min(count, POINTS)
    assert (tmp_path / FILE).stat().st_size < 6000
