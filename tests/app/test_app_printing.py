"""What commands print."""

from __future__ import annotations

import json

import pytest

from subbyte.app.printing import print_json


def test_what_is_no_number_is_null_as_json_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf")], "c": ({"d": -float("inf")}, "NaN")}

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    print_json(value)
    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert read == {"a": None, "b": [1.5, None], "c": [{"d": None}, "NaN"]}
