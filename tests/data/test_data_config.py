from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from subbyte.data import DataConfig


def message(**keys: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        DataConfig(**keys)
    (error,) = caught.value.errors()
    assert "\n" not in error["msg"]
    return error["msg"]


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "digits"},
        {"name": "digits", "calibration_images": 64, "evaluation_images": 10},
        {"name": "digits", "skip_broken": False, "classes": None},
        {"root": "pictures", "classes": "classes.txt", "skip_broken": True},
        {"calibration": "a", "evaluation": "b", "preprocessing": {"resize": 256, "crop": 224}},
    ],
)
def test_valid(keys: dict[str, Any]) -> None:
    DataConfig(**keys)


def test_defaults() -> None:
    config = DataConfig(name="digits")
    assert config.calibration_images == 512
    assert config.evaluation_images is None


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert DataConfig(root=Path("~/pictures")).root == tmp_path / "pictures"


def test_a_source_is_needed() -> None:
    assert "data needs name" in message()


@pytest.mark.parametrize(
    ("given", "missing"), [("calibration", "evaluation"), ("evaluation", "calibration")]
)
def test_two_folders_come_together(given: str, missing: str) -> None:
    assert f"data.{given} is given without data.{missing}" in message(**{given: "a"})


@pytest.mark.parametrize("key", ["calibration", "evaluation"])
def test_root_stands_alone(key: str) -> None:
    assert f"data.{key} has no meaning with data.root" in message(**{"root": "a", key: "b"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("root", "a"),
        ("calibration", "a"),
        ("evaluation", "a"),
        ("classes", "a"),
        ("skip_broken", True),
        ("preprocessing", {"resize": 8}),
    ],
)
def test_keys_without_a_meaning_for_bundled_data(key: str, value: object) -> None:
    told = message(**{"name": "digits", key: value})
    assert f"data.{key} has no meaning with data.name: digits" in told


def test_unknown_name_gets_the_nearest() -> None:
    assert "unknown data 'digit': did you mean 'digits'?" in message(name="digit")


@pytest.mark.parametrize("key", ["calibration_images", "evaluation_images"])
def test_counts_start_at_one(key: str) -> None:
    assert "greater than or equal to 1" in message(**{"name": "digits", key: 0})


def test_unknown_keys_are_refused() -> None:
    assert "Extra inputs" in message(name="digits", folder="a")


@pytest.mark.parametrize(
    ("keys", "detection"),
    [
        ({"name": "digits"}, False),
        ({"root": "a"}, False),
        ({"calibration": "a", "evaluation": "b"}, False),
        ({"name": "digit-scenes", "evaluation_images": 10}, True),
        ({"root": "a", "format": "coco"}, True),
        ({"root": "a", "annotations": "b.json", "classes": "c.txt"}, True),
        ({"root": "a", "splits": {"evaluation": "test"}}, True),
        ({"calibration": "a", "evaluation": "b", "annotations": {"evaluation": "c.json"}}, True),
    ],
)
def test_objects_are_known_by_their_keys(keys: dict[str, Any], detection: bool) -> None:
    config = DataConfig(**keys)
    assert config.is_detection is detection
    assert DataConfig(**config.model_dump(exclude_unset=True)) == config


def test_splits_have_defaults_of_their_own() -> None:
    splits = DataConfig(root="a", splits={"evaluation": "test"}).splits
    assert splits is not None
    assert (splits.calibration, splits.evaluation) == ("train", "test")


def test_keys_of_detectors_that_cannot_be() -> None:
    assert "'coco', 'voc' or 'yolo'" in message(root="a", format="kitti")
    assert "data.format has no meaning with data.name: digit-scenes" in message(
        name="digit-scenes", format="coco"
    )
    assert "data.splits has no meaning with data.name: digits" in message(name="digits", splits={})
