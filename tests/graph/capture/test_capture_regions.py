from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from placed import placed
from small_detectors import LARGE, NAMES, detector, large, pictures
from subbyte.calibration.observe import observe
from subbyte.errors import SubbyteError
from subbyte.placement.simulation import Simulation
from subbyte.recipe import Recipe
from subbyte.utils.progress import Silent

pytestmark = pytest.mark.slow

FOUR = Recipe(weights=4, activations=4)


@pytest.fixture(scope="module")
def captured() -> dict[str, tuple[nn.Module, Simulation]]:
    """Each small detector, and as it is captured with 4 bits."""
    models = {name: detector(name) for name in NAMES}
    return {name: (model, placed(model, (pictures(),), FOUR)) for name, model in models.items()}


def same_boxes(model: nn.Module, other: nn.Module, images: Any) -> None:
    with torch.no_grad():
        for expected, found in zip(model(images), other(images), strict=True):
            assert len(expected["boxes"]) > 0
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_equal_without_parameters(captured: Any, name: str) -> None:
    model, other = captured[name]
    same_boxes(model, other, pictures())
    same_boxes(model, other, pictures(3, (72, 60), seed=5))  # of another size and number
    same_boxes(model, other, [*pictures(1, (64, 64)), *pictures(1, (48, 80))])


@pytest.mark.parametrize("name", ["ssd", "retinanet", "fcos"])
def test_the_parts_of_a_one_stage_detector(captured: Any, name: str) -> None:
    _, found = captured[name]
    assert found.region_names == ("backbone", "head")
    assert found.flow.links == {("head", i): ("backbone", i) for i in range(2)}


def test_the_parts_of_a_two_stage_detector(captured: Any) -> None:
    _, found = captured["fasterrcnn"]
    heads = ("rpn.head", "roi_heads.box_head", "roi_heads.box_predictor")
    assert found.region_names == ("backbone", *heads)
    # What RoIAlign makes of the feature maps is no output of a region, but comes from one.
    assert ("roi_heads.box_head", 0) not in found.flow.links
    assert ("roi_heads.box_head", 0) in found.flow.inner


def test_first_and_last_are_those_of_the_whole_detector(captured: Any) -> None:
    def eight(name: str) -> set[str]:
        found = captured[name][1]
        return {t.layer for t, q in found.quantizers("weight") if q.spec.bits == 8}

    head = "head.classification_head.cls_logits", "head.regression_head.bbox_reg"
    assert eight("retinanet") == {"backbone.stem.0", *head}
    assert eight("fcos") == {"backbone.stem.0", *head, "head.regression_head.bbox_ctrness"}
    assert eight("fasterrcnn") == {
        "backbone.stem.0",
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }


@pytest.mark.parametrize("name", ["ssd", "retinanet", "fcos"])
def test_a_feature_map_has_one_quantizer_for_the_backbone_and_all_heads(
    captured: Any, name: str
) -> None:
    _, found = captured[name]
    inputs = [n for n in found.region("head").graph.nodes if n.op == "placeholder"]
    quantizers = {n for n in found.region("head").graph.nodes if n.op == "call_module"}
    assert not any(user in quantizers for node in inputs for user in node.users)
    output = next(n for n in found.region("backbone").graph.nodes if n.op == "output")
    assert [n.op for n in output.all_input_nodes] == ["call_module"] * 2
    backbone = found.region("backbone")
    given = [backbone.get_submodule(str(n.target)) for n in output.all_input_nodes]
    readers = [set(t.readers) for t, q in found.activations() if any(q is g for g in given)]
    assert all(any(r.startswith("head.") for r in names) for names in readers)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_scores_are_never_quantized(captured: Any, name: str) -> None:
    """What the heads give comes right from their last layers, past no quantizer."""
    _, found = captured[name]
    for region in set(found.region_names) - {"backbone", "roi_heads.box_head"}:
        graph = found.region(region).graph
        layers = {layer.node for layer in found.placement.layers if layer.region == region}
        waiting = [next(n for n in graph.nodes if n.op == "output")]
        while waiting:
            node = waiting.pop()
            assert node.op != "call_module"
            if node.name not in layers:
                waiting += [n for n in node.all_input_nodes if n.op != "placeholder"]


def test_a_quantizer_observes_inside_the_whole_detector(captured: Any) -> None:
    found = captured["fasterrcnn"][1]
    seen = observe(found, [(pictures(),)], Silent())
    assert seen.keys() == {tensor.key for tensor in found.placement.of_role("activation")}


def test_the_users_model_is_left_as_it_is() -> None:
    model = detector("ssd")
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    placed(model, (pictures(),), FOUR)
    assert [type(module) for module in model.modules()] == kinds
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


class Nested(nn.Module):
    """Takes a list and a dictionary, by position and by name, and gives such."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, maps: list[torch.Tensor], *, more: dict[str, torch.Tensor]) -> Any:
        return {"sums": [self.b(self.a(x)) for x in maps], "other": (self.a(more["x"]), None)}


class Around(nn.Module):
    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.part, self.idle, self.times = Nested(), nn.Linear(2, 2), times

    def forward(self, x: torch.Tensor) -> Any:
        if float(x.sum()) > 1e9:  # nothing that can be captured
            return x
        for _ in range(self.times):
            found = self.part([x, x[:, :, ::2]], more={"x": x})
        return found["sums"], found["other"][0]


def test_nested_arguments_survive() -> None:
    model = Around().eval()
    found = placed(model, (torch.randn(2, 3, 8, 8),), Recipe(regions=("part",)))
    x = torch.randn(5, 3, 6, 10)
    torch.testing.assert_close(found(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_largest_submodule_that_can_be_captured_is_found() -> None:
    found = placed(Around().eval(), (torch.randn(2, 3, 8, 8),), Recipe())
    assert found.region_names == ("part",)


def test_a_model_may_name_its_regions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).eval()
    model.subbyte_regions = ("1",)
    found = placed(model, (torch.randn(2, 3, 4, 4),), Recipe(first_last=None))
    assert {tensor.layer for tensor in found.placement.tensors} == {"1"}


class Neck(nn.Module):
    """Concatenates what it is given with what it makes of it: one scale for both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.cat([x, self.a(x)], 1))


def test_a_quantizer_that_a_region_shares_with_its_own_tensors_stays_in_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Neck()).eval()
    x = torch.randn(2, 3, 4, 4)
    found = placed(model, (x,), Recipe(regions=("0", "1")))
    assert {t.region for t, _ in found.quantizers("activation") if "1.b" in t.readers} == {"1"}
    torch.testing.assert_close(found(x), model(x))


class Shifting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(self.part(x)[:, 0])


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Around()

    def forward(self, x: torch.Tensor) -> Any:
        return self.part(x)[1]


@pytest.mark.parametrize(
    ("model", "shape", "regions", "expected"),
    [
        (Around(), (2, 3, 8, 8), ("prat",), "unknown region 'prat': did you mean 'part'"),
        (Around(), (2, 3, 8, 8), ("idle",), "the region 'idle' does not run"),
        (Around(), (2, 3, 8, 8), ("part", "part.a"), "'part.a' is part of the region 'part'"),
        (Around(), (2, 3, 8, 8), ("part", "part"), "'part' is part of the region 'part'"),
        (Around(), (2, 3, 8, 8), (), "regions is empty"),
        (Shifting(), (2, 3, 4), ("part",), "region 'part' cannot be captured: it runs several"),
        (Deciding(), (2, 3, 8, 8), ("part",), "region 'part' cannot be captured: torch.export"),
        (nn.Sequential(nn.ReLU()), (2, 3), ("0",), "the region '0' has no convolution"),
    ],
)
def test_regions_that_cannot_be(
    model: nn.Module, shape: tuple[int, ...], regions: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(SubbyteError, match=expected):
        placed(model.eval(), (torch.randn(*shape),), Recipe(regions=regions))


@pytest.mark.whole
@pytest.mark.parametrize("name", LARGE)
def test_torchvisions_detectors_give_the_same_boxes(name: str) -> None:
    model = large(name)
    images = pictures(2, LARGE[name])
    found = placed(model, (images,), Recipe(regions=None))
    with torch.no_grad():
        expected, given = model(images), found(images)
    for one, other in zip(expected, given, strict=True):
        assert len(one["boxes"]) > 0
        # One in a hundred may be kept or not by an overlap that lies on the threshold.
        distances = torch.cdist(one["boxes"], other["boxes"], p=float("inf")).amin(1)
        assert (distances < 0.05).float().mean() >= 0.98
