from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from subbyte.errors import SubbyteError
from subbyte.utils.validation import Checked, explain, gathered, refuse, told


class Lens(BaseModel):
    model_config = ConfigDict(extra="forbid")

    focus: int = 50


class Camera(Checked):
    model_config = ConfigDict(extra="forbid")

    name: str
    exposure: float = Field(default=0.01, gt=0)
    lens: Lens = Lens()
    spare: Lens | None = None
    film: str | dict[str, int] = "new"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "toy":
            raise ValueError("a toy takes no pictures.")
        return name

    @field_validator("film", mode="before")
    @classmethod
    @told
    def _loaded(cls, film: Any) -> Any:
        if film == "old":
            refuse(["the film is old", "the film is dusty"])
        if not isinstance(film, str | dict):
            raise SubbyteError(f"the film is {film}: load a roll")
        return film


def told_of(**fields: Any) -> str:
    with pytest.raises(SubbyteError) as caught:
        Camera(**fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "name is missing: give it a value"),
        ({"name": "toy"}, "name: a toy takes no pictures"),
        ({"name": "a", "exposure": 0}, "exposure is 0: input should be greater than 0"),
        ({"name": "a", "lens": {"focus": "near"}}, "lens.focus is 'near': input should be a valid"),
        ({"name": "a", "lens": 3}, "lens is 3: input should be a valid dictionary"),
        ({"name": "a", "expo": 1}, "unknown key 'expo': did you mean 'exposure'?"),
        ({"name": "a", "lens": {"fokus": 1}}, "'lens.fokus': did you mean 'lens.focus'?"),
        ({"name": "a", "spare": {"fokus": 1}}, "'spare.fokus': did you mean 'spare.focus'?"),
    ],
)
def test_a_fault_is_one_sentence_with_its_key(fields: dict[str, Any], message: str) -> None:
    assert told_of(**fields).startswith(("unknown key " if message[0] == "'" else "") + message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # The misspelt key explains the missing one.
        (
            {"nam": "a", "exposure": 1},
            "unknown key 'nam': did you mean 'name'? (known: exposure, film, lens, name, spare); "
            "name is missing: give it a value",
        ),
        (
            {"name": "toy", "exposure": 0, "lens": {"focus": "near"}, "spare": {"fokus": 1}},
            "unknown key 'spare.fokus': did you mean 'spare.focus'? (known: spare.focus); "
            "name: a toy takes no pictures; exposure is 0: input should be greater than 0; "
            "lens.focus is 'near': input should be a valid integer, unable to parse string as an "
            "integer",
        ),
        # What may be of several kinds is one fault; sentences of its own stand as they are.
        ({"name": "toy", "film": 3}, "name: a toy takes no pictures; the film is 3: load a roll"),
        (
            {"name": "a", "film": {"a": "b"}},
            "film.str is {'a': 'b'}: input should be a valid string",
        ),
        ({"film": "old"}, "name is missing: give it a value; the film is old; the film is dusty"),
    ],
)
def test_all_faults_are_told_at_once(fields: dict[str, Any], message: str) -> None:
    assert told_of(**fields).startswith(message)
    assert told_of(**fields).count(";") == message.count(";")


def test_faults_are_gathered_behind_their_place() -> None:
    faults = ["first"]
    with gathered(faults, "cameras.a: "):
        Camera(exposure=0)
    with gathered(faults):
        Camera(name="a")
    assert faults == [
        "first",
        "cameras.a: name is missing: give it a value",
        "cameras.a: exposure is 0: input should be greater than 0",
    ]
    refuse([])
    with pytest.raises(SubbyteError, match="one; two"):
        refuse(["one", "two"])


def test_a_long_value_is_cut() -> None:
    assert len(told_of(name="a", exposure="x" * 500)) < 200


def test_a_prefix_says_where_the_model_stands() -> None:
    for value, message in (
        ({"focus": None}, "camera.lens.focus is None"),
        ({"fokus": 3}, "unknown key 'camera.lens.fokus': did you mean 'camera.lens.focus'?"),
    ):
        with pytest.raises(ValidationError) as caught:
            Lens(**value)
        assert str(explain(caught.value, Lens, "camera.lens")).startswith(message)


def test_what_is_right_is_taken() -> None:
    assert Camera(name="a", lens={"focus": 35}).lens == Lens(focus=35)
