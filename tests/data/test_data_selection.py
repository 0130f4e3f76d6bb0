from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from subbyte.data import DataConfig
from subbyte.data.selection import (
    calibration_indices,
    evaluation_indices,
    overlap,
    simulation_indices,
)

if TYPE_CHECKING:
    from .conftest import Draw, Refuses


def config(**keys: int) -> DataConfig:
    return DataConfig(name="digits", **keys)  # type: ignore[arg-type]


def test_calibration_is_the_published_choice_in_its_order() -> None:
    expected = np.random.default_rng(7).choice(5000, 1024, replace=False).tolist()
    assert calibration_indices(5000, config(calibration_images=1024), 7) == expected
    assert calibration_indices(5, config(calibration_images=3), 0) == [3, 4, 2]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32))
def test_choices_are_distinct_and_belong_to_the_seed(available: int, k: int, seed: int) -> None:
    k = min(k, available)
    asked = config(calibration_images=k, evaluation_images=k)
    for choose in (calibration_indices, evaluation_indices):
        chosen = choose(available, asked, seed)
        assert len(set(chosen)) == len(chosen) == k
        assert set(chosen) <= set(range(available))
        assert chosen == choose(available, asked, seed)
    assert evaluation_indices(available, asked, seed) == sorted(
        evaluation_indices(available, asked, seed)
    )


def test_seeds_differ() -> None:
    asked = config(calibration_images=10, evaluation_images=10)
    assert calibration_indices(1000, asked, 0) != calibration_indices(1000, asked, 1)
    assert evaluation_indices(1000, asked, 0) != evaluation_indices(1000, asked, 1)


def test_evaluation_takes_all_by_default() -> None:
    assert evaluation_indices(4, config(), 0) == [0, 1, 2, 3]


def test_fewer_than_asked_for(refuses: Refuses) -> None:
    assert sorted(calibration_indices(5, config(), 0)) == [0, 1, 2, 3, 4]
    with refuses("data.calibration_images is 6, but there are 5 images"):
        calibration_indices(5, config(calibration_images=6), 0)
    with refuses("data.evaluation_images is 6, but there are 5 images"):
        evaluation_indices(5, config(evaluation_images=6), 0)


def test_overlap_by_place_and_by_content(tmp_path: Path, draw: Draw) -> None:
    original = draw(tmp_path / "val" / "a.png", seed=1)
    other = draw(tmp_path / "val" / "b.bmp", seed=2)
    copy = tmp_path / "train" / "copied under another name.png"
    copy.parent.mkdir()
    shutil.copy(original, copy)
    link = tmp_path / "train" / "link.png"
    link.symlink_to(original)
    same_size = draw(tmp_path / "train" / "c.bmp", seed=3)
    assert same_size.stat().st_size == other.stat().st_size
    calibration = [original, copy, link, same_size, draw(tmp_path / "d.png", seed=4)]
    assert overlap(calibration, [original, other]) == 3
    assert overlap([same_size], [original, other]) == 0


@given(st.integers(1, 400), st.one_of(st.none(), st.integers(1, 500)))
def test_the_simulation_takes_images_at_even_distances(available: int, wanted: int | None) -> None:
    chosen = simulation_indices(available, wanted)
    assert len(chosen) == min(available, wanted or available)
    assert list(chosen) == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < available
    gaps = np.diff(chosen)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_of_images_sorted_by_class_each_class_gives_its_share() -> None:
    classes = np.repeat(np.arange(1000), 50)
    counts = np.bincount(classes[list(simulation_indices(50_000, 2000))])
    assert counts.tolist() == [2] * 1000
