"""The families and the names of their models, against the libraries' own lists."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, check, families, load, names
from subbyte.models.families import digit_scenes, ssd
from subbyte.models.families import torchvision as classifiers
from subbyte.models.families import torchvision_detectors as detectors
from subbyte.models.registered import registered
from subbyte.models.ssd.members import MEMBERS

LENET = """\
GROUP = "lenets"
TASK = "classification"


def names():
    return ["lenet"]


def load(config):
    from torch import nn

    from subbyte.models.spec import ModelSpec

    return ModelSpec("lenet", nn.Conv2d(1, 6, 5), "classification", None, None)
"""


def test_torchvisions_classifiers_are_those_that_it_lists() -> None:
    assert classifiers.names() == torchvision.models.list_models(module=torchvision.models)


def test_torchvisions_detectors_are_those_that_it_lists_but_for_masks_and_keypoints() -> None:
    known = torchvision.models.list_models(module=torchvision.models.detection)
    others = {name for name in known if "mask" in name or "keypoint" in name}
    assert others
    assert detectors.names() == [name for name in known if name not in others]


def test_the_ssds_are_the_members_of_their_family() -> None:
    assert ssd.names() == list(MEMBERS)
    assert digit_scenes.MEMBER in MEMBERS


def test_groups_come_in_their_order() -> None:
    groups = ["bundled", "cifar", "ssd", "torchvision", "torchvision detectors"]
    groups += ["libreyolo", "transformers", "timm"]
    assert list(names()) == groups
    assert list(dict.fromkeys(family.GROUP for family in families.known())) == groups


def test_what_is_not_decorated_or_not_installed_has_no_names() -> None:
    assert registered("torchvision", "ops") == set()
    assert registered("a_library_that_does_not_exist", "models") == set()


def test_a_file_in_the_folder_is_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lenet.py").write_text(LENET)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    families.known.cache_clear()
    try:
        assert names("lenet") == {"lenets": ["lenet"]}
        assert list(names())[2] == "lenets"
        assert load(ModelConfig(name="lenet")).name == "lenet"
    finally:
        families.known.cache_clear()


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "resnet19"}, "unknown model 'resnet19': did you mean 'resnet1"),
        ({"name": "timm/resnett"}, "unknown model 'timm/resnett'"),
        ({"name": "resnet18d"}, "timm has one, so write timm/resnet18d"),
        ({"name": "resnet18", "checkpoint": "gone.pth"}, "checkpoint 'gone.pth' does not exist"),
        ({"factory": "build"}, "factory 'build' names no function"),
        ({"factory": "gone.py:build"}, "gone.py' does not exist"),
    ],
)
def test_checking_says_what_loading_says(config: dict[str, str], says: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    for refuse in (check, load):
        with pytest.raises(SubbyteError) as caught:
            refuse(ModelConfig.model_validate(config))
        assert says in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "resnet18"},
        {"name": "digits"},
        {"name": "timm/resnet18.a1_in1k"},
        {"factory": "a:b"},
    ],
)
def test_checking_lets_pass_what_may_exist(config: dict[str, str]) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    check(ModelConfig.model_validate(config))
