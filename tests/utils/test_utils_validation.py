from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from subbyte.errors import SubbyteError
from subbyte.utils.validation import Checked, explain


class Lens(BaseModel):
    model_config = ConfigDict(extra="forbid")

    focus: int = 50


class Camera(Checked):
    model_config = ConfigDict(extra="forbid")

    name: str
    exposure: float = Field(default=0.01, gt=0)
    lens: Lens = Lens()
    spare: Lens | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name == "toy":
            raise ValueError("a toy takes no pictures.")
        return name


def told(**fields: Any) -> str:
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
    assert told(**fields).startswith(("unknown key " if message[0] == "'" else "") + message)


def test_a_long_value_is_cut() -> None:
    assert len(told(name="a", exposure="x" * 500)) < 200


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
