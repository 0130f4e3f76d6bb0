"""Distiller's ordered mappings are read as mappings, and no other tag of Python's is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from subbyte.utils.tagged_yaml import load_tagged

TAG = "!!python/object/apply:collections.OrderedDict"


def test_an_ordered_dict_keeps_its_order() -> None:
    text = f"a: {TAG}\n- - - z\n    - {TAG}\n      - - [y, 1]\n        - [x, 2]\n  - [b, 3]\n"
    found = load_tagged(text)
    assert found == {"a": {"z": {"y": 1, "x": 2}, "b": 3}}
    assert list(found["a"]) == ["z", "b"]
    assert list(found["a"]["z"]) == ["y", "x"]


def test_an_empty_one_and_one_written_as_a_mapping() -> None:
    assert load_tagged(f"{TAG} []") == {}
    assert load_tagged(f"{TAG} {{a: 1}}") == {"a": 1}


@pytest.mark.parametrize("rest", ["[[1, 2]]", "[3]", "text", "[[[[a], 1]]]"])
def test_what_holds_no_pairs_is_refused(rest: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_tagged(f"{TAG} {rest}")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "x: {w8a8: {}, w4a8: {}, w8a8: {bits: 4}}"])
def test_a_key_that_stands_twice_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(yaml.MarkedYAMLError, match="stands twice") as found:
        load_tagged(text)
    assert found.value.problem_mark is not None
    assert found.value.problem_mark.line == text.count("\n")


def test_a_merged_key_may_stand_again() -> None:
    assert load_tagged("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize("tag", ["os.system", "subprocess.check_output", "builtins.eval"])
def test_nothing_is_run(tag: str, tmp_path: Path) -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load_tagged(f"!!python/object/apply:{tag} ['touch {tmp_path}/trace']")
    assert not (tmp_path / "trace").exists()
