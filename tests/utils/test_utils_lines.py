"""Progress as lines: one a minute, or one for each item that takes long."""

from __future__ import annotations

import pytest

from subbyte.utils.lines import Lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(clock: Clock) -> tuple[Lines, list[str]]:
    said: list[str] = []
    return Lines(said.append, clock=clock), said


def test_quick_work_says_nothing(clock: Clock) -> None:
    progress, said = lines(clock)
    for _ in progress.track(range(100), "looking"):
        clock.now += 0.1
    with progress.working("capturing"):
        clock.now += 9
    assert said == []


def test_a_line_a_minute_with_the_time_that_is_left(clock: Clock) -> None:
    progress, said = lines(clock)
    for _ in progress.track(range(600), "w4a4: evaluating"):
        clock.now += 0.5
    assert said[0] == "w4a4: evaluating: 120 of 600, about 4 min left"
    assert len(said) == 5
    assert said[-1] == "w4a4: evaluating: 600 of 600"


def test_a_line_a_block_where_blocks_take_long(clock: Clock) -> None:
    progress, said = lines(clock)
    for _ in progress.track(["a", "b", "c"], "learning blocks"):
        for _ in progress.track(iter(range(4)), "steps", total=4):
            clock.now += 5
    assert said == [
        "learning blocks: 1 of 3, about 40 s left",
        "learning blocks: 2 of 3, about 20 s left",
        "learning blocks: 3 of 3",
    ]


def test_a_loop_of_unknown_length_and_a_block_that_took_long(clock: Clock) -> None:
    progress, said = lines(clock)
    for _ in progress.track(iter([1, 2]), "solving"):
        clock.now += 70
    with progress.working("writing ONNX"):
        clock.now += 30
    assert said == [
        "solving: 1 of 2, about 1 min left",
        "solving: 2 of 2",
        "writing ONNX: took 30 s",
    ]


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    progress = Lines(clock=clock)
    for _ in progress.track([1], "waiting"):
        clock.now += 61
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "waiting: 1 of 1\n"
