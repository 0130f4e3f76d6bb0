from __future__ import annotations

import pytest
import torchvision

from subbyte.errors import SubbyteError
from subbyte.models import build, names


def test_names_are_grouped_and_hold_what_torchvision_has() -> None:
    groups = names()
    own = {"bundled", "cifar", "ssd", "torchvision", "torchvision detectors"}
    assert set(groups) == {*own, "libreyolo", "transformers", "timm"}
    assert groups["bundled"] == ["digits", "digit-scenes"]
    assert "cifar_resnet110" in groups["cifar"]
    for name in groups["torchvision"]:
        assert callable(getattr(torchvision.models, name))
    every = [name for group in groups.values() for name in group]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet19", None, "unknown model 'resnet19': did you mean 'resnet1"),
        ("cifar_resnet21", None, "unknown model 'cifar_resnet21': did you mean 'cifar_resnet"),
        ("maskrcnn_resnet50_fpn", None, "unknown model"),
        ("resnet18", "IMAGENET1K_V2", "unknown weights of resnet18 'IMAGENET1K_V2'"),
        ("resnet50", "imagenet", "IMAGENET1K_V1, IMAGENET1K_V2"),
        ("cifar_resnet20", "DEFAULT", "published file as checkpoint"),
    ],
)
def test_unknown_names_are_refused_with_what_is_known(
    name: str, weights: str | None, says: str
) -> None:
    with pytest.raises(SubbyteError) as caught:
        build(name, weights=weights)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
