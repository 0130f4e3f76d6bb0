"""A rule is registered by its file being there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from subbyte import Recipe, SubbyteError
from subbyte.numerics import ranges
from subbyte.numerics.qspec import QSpec

RULE = '''\
"""A share of the extremes."""

from subbyte.errors import SubbyteError


def check(part, other):
    if part > other:
        raise SubbyteError(f"part is {part}: it must be at most {other}")


def range_of(sample, spec, *, part=0.5, other=1.0):
    return sample.low * part, sample.high * part
'''


@pytest.fixture
def _share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share.py").write_text(RULE)
    monkeypatch.setattr(ranges, "__path__", [*ranges.__path__, str(tmp_path)])


@pytest.mark.usefixtures("_share")
def test_a_file_in_the_folder_is_a_rule() -> None:
    assert "share" in ranges.names()
    assert Recipe(ranges={"name": "share", "part": 0.25}).ranges == {"name": "share", "part": 0.25}
    sample, spec = ranges.sample_of(torch.tensor([[0.0, 6.0]])), QSpec(2, False, 0)
    for options, scale in (({}, 1.0), ({"part": 0.25}, 0.5)):
        assert ranges.choose("share", options, sample, spec)[0].tolist() == [scale]
    assert not ranges.weighs("share", {})


@pytest.mark.usefixtures("_share")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"part": 2}, "part is 2: it must be at most 1"),
        ({"part": 2, "other": 3}, None),
        ({"prat": 2}, "unknown option of range rule 'share' 'prat': did you mean 'part'?"),
    ],
)
def test_its_options_are_checked_with_its_defaults_beside_them(
    options: dict[str, float], says: str | None
) -> None:
    if says is None:
        ranges.check("share", options)
        return
    with pytest.raises(SubbyteError) as caught:
        ranges.check("share", options)
    assert says in str(caught.value)


def test_folders_and_what_does_not_exist_are_not_rules() -> None:
    assert "common" not in ranges.names()
    with pytest.raises(SubbyteError, match="unknown range rule 'common'"):
        ranges.rule("common")
