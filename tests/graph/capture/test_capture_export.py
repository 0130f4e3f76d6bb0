from __future__ import annotations

import copy
import inspect
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from subbyte.errors import SubbyteError
from subbyte.graph.capture.export import capture


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.conv(x)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.conv(x), inplace=True)
        y += x
        y[:, 0] *= 2
        return y.clamp_(max=1)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.right = nn.Linear(2, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.left(x) + self.right(y), "left": self.left(x)}


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if y.sum() > 0:
            y = y + 1
        return y


class FixesBatch(nn.Module):
    def __init__(self, size: int, stride: int = 1) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(3, 4, 3, stride)
        self.linear = nn.LazyLinear(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.conv(x))
        y = y.view(self.size, -1)
        return self.linear(y)


class Variadic(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.inner(*args)


def line_of(model: type[nn.Module], text: str) -> str:
    """FILE:LINE of the line of a model's code that holds `text`."""
    lines, first = inspect.getsourcelines(model)
    return f"{Path(__file__).name}:{first + next(i for i, x in enumerate(lines) if text in x)}"


def refusal(model: nn.Module, *args: torch.Tensor) -> str:
    with pytest.raises(SubbyteError) as caught:
        capture(model, args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_model_is_left_as_it_was() -> None:
    model = Small().train()
    model.linear.weight.requires_grad_(False)
    calls: list[int] = []
    model.conv.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    module = capture(model, (torch.randn(4, 3, 8, 8),))
    assert model.training
    assert model.norm.training
    assert len(model.conv._forward_hooks) == 1
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False, True]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    theirs = {p.data_ptr() for p in model.parameters()}
    assert not theirs & {p.data_ptr() for p in module.parameters()}


def test_parameters_keep_their_names() -> None:
    module = capture(Small(), (torch.randn(2, 3, 8, 8),))
    names = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    assert names == {"conv.weight", "conv.bias", "linear.weight", "linear.bias"}


@pytest.mark.parametrize("example", [1, 2, 5])
def test_any_batch_size_runs_whatever_the_examples(
    example: int, trained: Callable[[nn.Module], nn.Module]
) -> None:
    model = trained(Small())
    module = capture(model, (torch.randn(example, 3, 8, 8),))
    for size in (1, 2, 7):
        x = torch.randn(size, 3, 8, 8)
        torch.testing.assert_close(module(x), model(x), rtol=0, atol=1e-5)


def test_the_graph_is_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 100), nn.Dropout(0.5)).train()
    module = capture(model, (torch.randn(2, 3),))
    x = torch.randn(3, 3)
    assert torch.equal(module(x), model[0](x))


def test_in_place_operators_do_what_they_did() -> None:
    model, x = InPlace(), torch.randn(3, 3, 4, 4)
    module, kept = capture(model, (x,)), x.clone()
    torch.testing.assert_close(module(x), model(x), rtol=0, atol=1e-6)
    assert torch.equal(x, kept)
    assert not [n for n in module.graph.nodes if re.search(r"[a-z]_\.", str(n.target))]


def test_a_view_does_not_mind_how_values_lie_in_memory() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x.view(x.shape[0], 12))

    model, x = Views(), torch.randn(2, 3, 2, 2)
    module = capture(model, (x,))
    apart = x.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        model(apart)
    torch.testing.assert_close(module(apart), model(x))


def test_several_inputs_and_named_outputs() -> None:
    model = TwoInputs()
    module = capture(model, (torch.randn(1, 3), torch.randn(1, 2)))
    args = torch.randn(5, 3), torch.randn(5, 2)
    ours, theirs = module(*args), model(*args)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)


def test_a_model_with_any_number_of_inputs() -> None:
    model = Variadic(Small().eval())
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(capture(model, (x[:2],))(x), model(x), rtol=0, atol=1e-5)


def test_a_decision_on_values_names_the_line() -> None:
    text = refusal(Decides(), torch.randn(2, 3))
    assert line_of(Decides, "if y.sum()") in text
    assert "torch.where" in text


def test_a_fixed_batch_names_the_line() -> None:
    model, x = FixesBatch(5), torch.randn(5, 3, 6, 6)
    model(x)
    text = refusal(model, x)
    assert f"{line_of(FixesBatch, 'view')} fixes the batch size to 5" in text


def test_a_fixed_batch_names_the_line_though_a_stride_is_the_same_number() -> None:
    model, x = FixesBatch(2, stride=2), torch.randn(2, 3, 7, 7)
    model(x)
    assert line_of(FixesBatch, "view") in refusal(model, x)


def test_a_batch_fixed_to_one_is_reported_as_such() -> None:
    model, x = FixesBatch(1), torch.randn(1, 3, 6, 6)
    model(x)
    text = refusal(model, x)
    assert line_of(FixesBatch, "view") in text or line_of(FixesBatch, "self.linear(y)") in text
    assert "fixes the batch size to 1" in text


def test_a_batch_that_the_model_does_not_take() -> None:
    text = refusal(Small(), torch.randn(2, 4, 8, 8))
    assert text.startswith("the model does not run on a batch of shape (2, 4, 8, 8)")
    assert line_of(Small, "self.norm(self.conv") in text


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_inputs_than_the_model_takes(count: int) -> None:
    text = refusal(TwoInputs(), *[torch.randn(2, 3)] * count)
    assert text == (
        f"the model takes the inputs (x, y), and a batch gives {count}: "
        "give each batch as a tuple of the model's positional arguments"
    )


def test_an_image_too_small_for_a_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 8, 8))
    text = refusal(model, torch.randn(2, 3, 1, 1))
    assert text.startswith("the model does not run on a batch of shape (2, 3, 1, 1): ")
    assert "Kernel size can't be greater than actual input size" in text
    assert text.endswith("; give batches of the size and kind that the model takes")


def test_a_batch_without_a_tensor() -> None:
    with pytest.raises(SubbyteError, match="the batch holds no tensor"):
        capture(Small(), (3,))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_parameter_that_is_not_finite_names_its_layer(poison: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    with torch.no_grad():
        model[0].weight[1] = poison
    assert "the weight of layer '0' holds NaN" in refusal(model, torch.randn(2, 3, 4, 4))


def test_a_buffer_that_is_not_finite_names_its_layer() -> None:
    model = Small()
    model.norm.running_var[0] = math.nan
    assert "the running_var of layer 'norm' holds NaN" in refusal(model, torch.randn(2, 3, 4, 4))


def test_a_mask_may_hide_with_minus_infinity() -> None:
    model = Small()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    capture(model, (torch.randn(2, 3, 4, 4),))
    model.mask[0] = math.inf
    assert "the model's own 'mask' holds NaN" in refusal(model, torch.randn(2, 3, 4, 4))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.utils.weight_norm(nn.Linear(3, 3))
    refusal(model, torch.randn(2, 3))


class Mean(nn.Module):
    """Its output is a matrix, so that it is captured whole or not at all."""

    def __init__(self, behind: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.behind = nn.Linear(3, 4), behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.behind(self.linear(x), x.shape[0])


def divides(y: torch.Tensor, size: int) -> torch.Tensor:
    return y / int(size / 1.0)


def decides(y: torch.Tensor, size: int) -> torch.Tensor:
    return y * 2 if size > 3 else y


@pytest.mark.parametrize("behind", [divides, decides])
def test_a_batch_size_that_torch_export_fixes_without_a_word(
    behind: Callable[[torch.Tensor, int], torch.Tensor],
) -> None:
    line = f"{Path(__file__).name}:{behind.__code__.co_firstlineno + 1}"
    assert f"{line} fixes the batch size to 4" in refusal(Mean(behind), torch.randn(4, 3))


def test_a_model_that_is_random_is_captured() -> None:
    capture(Mean(lambda y, _: y + torch.rand_like(y)), (torch.randn(4, 3),))


def test_a_model_that_counts_its_runs_is_captured_as_it_was() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)
            self.register_buffer("runs", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.runs.add_(1)
            return self.linear(x) + self.runs

    x = torch.randn(4, 3)
    model = Counts().eval()
    graph = capture(model, (x,))
    model(x)  # the model is run once before it is captured
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-6)


def test_a_batch_that_a_parameter_fixes_names_the_line() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)
            self.positions = nn.Parameter(torch.randn(5, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + self.positions

    text = refusal(Positions(), torch.randn(5, 3))
    assert f"{line_of(Positions, '+ self.positions')} fixes the batch size to 5" in text


def test_a_batch_that_a_librarys_module_fixes_names_the_module() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(0, (5, 1)))
    assert "its code in the module '1' (Unflatten) fixes" in refusal(model, torch.randn(5, 3))


@pytest.mark.parametrize("normalize", [transforms.Normalize, v2.Normalize])
def test_torchvisions_normalization_is_captured(normalize: Callable[..., nn.Module]) -> None:
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
    model = nn.Sequential(normalize(mean.tolist(), std.tolist()), nn.Conv2d(3, 4, 3))
    x = torch.rand(2, 3, 6, 6)
    graph = capture(model, (x,))
    by_hand = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(graph(x), model[1](by_hand), rtol=0, atol=1e-5)
    assert not any("item" in str(node.target) for node in graph.graph.nodes)
