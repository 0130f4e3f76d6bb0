from __future__ import annotations

import sys

import pytest

import subbyte
from subbyte import data, models
from subbyte.utils import lazy


@pytest.mark.parametrize("package", [subbyte, data, models])
def test_every_public_name_is_there(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None


def test_a_name_comes_from_its_module_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    get = lazy.attributes("subbyte.utils.lazy", {"sqrt": "math"})
    monkeypatch.setattr(lazy, "sqrt", None, raising=False)
    assert get("sqrt")(9) == 3
    assert sys.modules["subbyte.utils.lazy"].sqrt(9) == 3  # type: ignore[attr-defined]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'subbyte' has no attribute 'quantise'"):
        subbyte.quantise  # noqa: B018
    assert not hasattr(data, "open_everything")
    assert "quantize" in dir(subbyte)
