from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from ssd_reference import random_state

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, build, load
from subbyte.models.ssd.members import MEMBERS, make

State = dict[str, torch.Tensor]


def _state(name: str, classes: int | None = None) -> State:
    with torch.device("meta"):
        empty = make(MEMBERS[name], classes or MEMBERS[name].classes).network.state_dict()
    return random_state(empty)


def _prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def _nvidia_training(state: State) -> dict[str, Any]:
    """What NVIDIA's training writes."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [43, 54])
    return {
        "epoch": 65,
        "iteration": 237185,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "label_map": {1: "person"},
        "model": state,
    }


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: _prefixed("module.", state),
        lambda state: {"state_dict": _prefixed("module.", state), "epoch": 3},
        lambda state: {"model": _prefixed("module.1.", state)},
        _nvidia_training,
    ],
    ids=["plain", "data parallel", "state_dict", "second module", "training"],
)
def test_files_are_read_as_they_are(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    state = _state("nvidia_ssd300_resnet18")
    torch.save(wrap(state), tmp_path / "epoch_64.pt")
    spec = load(ModelConfig(name="nvidia_ssd300_resnet18", checkpoint=tmp_path / "epoch_64.pt"))
    own = spec.module.get_submodule("network").state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert spec.task == "detection"
    assert spec.classes is not None
    assert (len(spec.classes), spec.classes[0], spec.classes[-1]) == (80, "person", "toothbrush")


def test_files_that_do_not_count_batches_are_read(tmp_path: Path) -> None:
    state = {k: v for k, v in _state("mb1_ssd").items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    spec = load(ModelConfig(name="mb1_ssd", checkpoint=tmp_path / "old.pth"))
    assert spec.classes is not None
    assert (len(spec.classes), spec.classes[0], spec.classes[-1]) == (20, "aeroplane", "tvmonitor")


def test_the_checkpoint_says_how_many_classes(tmp_path: Path) -> None:
    torch.save(_state("mb2_ssd_lite", 4), tmp_path / "own.pth")
    spec = load(ModelConfig(name="mb2_ssd_lite", checkpoint=tmp_path / "own.pth"))
    assert spec.module.num_classes == 4
    assert spec.classes is None
    with pytest.raises(SubbyteError, match="has 4 classes with the background, but num_classes is"):
        build("mb2_ssd_lite", checkpoint=tmp_path / "own.pth", num_classes=21)


def test_a_trained_folder_is_a_checkpoint_and_names_its_classes(tmp_path: Path) -> None:
    state = _state("sq_ssd_lite", 3)
    file = tmp_path / "run" / "model.safetensors"
    file.parent.mkdir()
    safetensors.torch.save_file(state, file, {"subbyte": '{"classes": ["cat", "dog"]}'})
    spec = load(ModelConfig(name="sq_ssd_lite", checkpoint=file.parent))
    assert spec.classes == ("cat", "dog")
    own = spec.module.get_submodule("network").state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("nvidia_ssd300_resnet50", "nvidia_ssd300_resnet18"),
        ("mb1_ssd", "mb1_ssd_lite"),
        ("mb1_ssd_lite", "sq_ssd_lite"),
        ("vgg16_ssd", "mb2_ssd_lite"),
    ],
)
def test_another_members_checkpoint_is_reported(name: str, other: str, tmp_path: Path) -> None:
    torch.save({"model": _prefixed("module.", _state(other, 5))}, tmp_path / "other.pth")
    with pytest.raises(SubbyteError, match=f"does not fit {name}: .* checkpoint of {other},"):
        build(name, checkpoint=tmp_path / "other.pth")


def test_what_no_member_has_is_reported(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(SubbyteError, match="does not fit the model: it lacks base_net"):
        build("mb1_ssd", checkpoint=tmp_path / "other.pth")
    state = _state("mb1_ssd")
    del state["extras.2.0.bias"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(SubbyteError, match=r"it lacks extras\.2\.0\.bias$"):
        build("mb1_ssd", checkpoint=tmp_path / "cut.pth")


def test_missing_files_and_weights_by_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SubbyteError, match="does not exist"):
        build("mb1_ssd", checkpoint=tmp_path / "none.pth")
    with pytest.raises(SubbyteError, match="is a folder"):
        build("mb1_ssd", checkpoint=tmp_path)
    with pytest.raises(SubbyteError, match="no weights by name"):
        build("mb1_ssd", weights="VOC")
    with pytest.raises(SubbyteError, match="did you mean 'mb2_ssd_lite'"):
        build("mb2_ssdlite")
