from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from ssd_reference import FORWARD, random_state

from subbyte.errors import SubbyteError
from subbyte.models import build
from subbyte.models.ssd import SSD, names
from subbyte.models.ssd.members import MEMBERS, make

# The published checkpoints by what the file of their shapes calls them.
PUBLISHED = {
    "nvidia_ssd300_resnet18": "nvidia/ssd300_resnet18",
    "nvidia_ssd300_resnet34": "nvidia/ssd300_resnet34",
    "nvidia_ssd300_resnet50": "nvidia/ssd300_resnet50",
    "ssd300_vgg16_amdegroot": "ssd.pytorch/ssd300_vgg16",
    "mb1_ssd": "pytorch-ssd/mb1_ssd",
    "mb1_ssd_lite": "pytorch-ssd/mb1_ssd_lite",
    "mb2_ssd_lite": "pytorch-ssd/mb2_ssd_lite",
    "vgg16_ssd": "pytorch-ssd/vgg16_ssd",
    "sq_ssd_lite": "pytorch-ssd/sq_ssd_lite",
}


def test_the_family_has_its_names() -> None:
    deeper = {"nvidia_ssd300_resnet101", "nvidia_ssd300_resnet152"}
    assert set(names()) == {*PUBLISHED, *deeper, "digit_scenes"}


@pytest.mark.parametrize("name", MEMBERS)
def test_there_is_a_default_box_for_each_row_of_the_outputs(name: str) -> None:
    with torch.device("meta"):
        model = make(MEMBERS[name], 7)
        raw = model.raw(torch.zeros(2, 3, model.settings.size, model.settings.size))
    count = len(model.default_boxes())
    assert raw["bbox_regression"].shape == (2, count, 4)
    assert raw["cls_logits"].shape == (2, count, 7)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_those_of_the_published_checkpoints(name: str) -> None:
    data = os.environ.get("SUBBYTE_DATA")
    file = Path(data or ".").parent / "checkpoints" / "ssd_state_dict_shapes.json"
    if data is None or not file.is_file():
        pytest.skip("$SUBBYTE_DATA/../checkpoints/ssd_state_dict_shapes.json is not there")
    with torch.device("meta"):
        state = make(MEMBERS[name], MEMBERS[name].classes).network.state_dict()
    shapes = json.loads(file.read_text())[PUBLISHED[name]]
    assert {key: list(tensor.shape) for key, tensor in state.items()} == shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", FORWARD)
def test_raw_outputs_are_those_of_plain_functions_of_the_checkpoint(
    name: str, tmp_path: Path
) -> None:
    member = MEMBERS[name]
    with torch.device("meta"):
        empty = make(member, member.classes).network.state_dict()
    state = random_state(empty)
    torch.save(state, tmp_path / "file.pth")
    model = build(name, checkpoint=tmp_path / "file.pth")
    assert isinstance(model, SSD)
    assert not model.training
    tolerance = 1e-4
    if not name.startswith(("vgg", "ssd300", "nvidia")):
        # In float64, where what rounding does is nothing; the others take too long in it.
        tolerance = 1e-9
        model, state = model.double(), {key: value.double() for key, value in state.items()}
    batch = torch.randn(1, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    batch = batch.to(model.default_boxes().dtype)
    with torch.no_grad():
        raw = model.raw(batch)
        boxes, logits = FORWARD[name](state, batch, member.classes)
    assert raw["bbox_regression"].shape == (1, len(model.default_boxes()), 4)
    assert raw["cls_logits"].shape == (1, len(model.default_boxes()), member.classes)
    for ours, theirs in ((raw["bbox_regression"], boxes), (raw["cls_logits"], logits)):
        assert theirs.std() > 0.05  # something arrives
        torch.testing.assert_close(
            ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.std())
        )


@pytest.mark.parametrize(("name", "blocks"), [("101", (3, 4, 23)), ("152", (3, 8, 36))])
def test_the_deeper_resnets_have_torchvisions_blocks(name: str, blocks: tuple[int, ...]) -> None:
    member = MEMBERS[f"nvidia_ssd300_resnet{name}"]
    with torch.device("meta"):
        state = make(member, member.classes).network.state_dict()
    for stage, count in zip((4, 5, 6), blocks, strict=True):
        prefix = f"feature_extractor.feature_extractor.{stage}."
        found = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
        assert len(found) == count
    assert state["loc.0.weight"].shape == (16, 1024, 3, 3)


def test_the_number_of_classes_is_of_the_outputs_with_the_background() -> None:
    model = build("mb2_ssd_lite", num_classes=4)
    assert isinstance(model, SSD)
    raw = model.raw(torch.zeros(2, 3, 300, 300))
    assert raw["cls_logits"].shape == (2, 3000, 4)
    with pytest.raises(SubbyteError, match="counts the background"):
        build("mb2_ssd_lite", num_classes=1)


def test_random_weights_are_the_same_every_time() -> None:
    first, second = (build("sq_ssd_lite").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mb2_ssd_lite", "nvidia_ssd300_resnet18"])
def test_the_network_can_be_exported_with_any_batch(name: str) -> None:
    model = build(name)
    assert isinstance(model, SSD)
    batch = torch.randn(2, 3, 300, 300)
    program = torch.export.export(
        model.network, (batch,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    with torch.no_grad():
        expected = model.network(batch[:1])
        exported = program.module()(batch[:1])
    for ours, theirs in zip(exported, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
