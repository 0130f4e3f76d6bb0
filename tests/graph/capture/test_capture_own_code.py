"""Code in users' models that asks for sizes: `len`, kept shapes, checks, caches by size."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import nn

import subbyte
from subbyte.graph.capture.export import capture


class Lengths(nn.Module):
    """Repeats a parameter for each image, by `len` of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.queries = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        queries = self.queries[None].expand(len(y), -1, -1)
        return (queries + y[:, None]).reshape(len(x), -1) * len([self.queries, self.linear])


class KeepsShape(nn.Module):
    """Computes offsets anew where its input has another shape than the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.shape: torch.Size | None = None
        self.offsets = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.shape != y.shape:
            self.offsets = torch.arange(y.shape[-1], dtype=y.dtype)
            self.shape = y.shape
        return y + self.offsets


class Checks(nn.Module):
    """Asks something of its values, and of its sizes, before it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = torch.tensor([[2, 1], [2, 1]])
        torch._check_tensor_all((sizes[:, 0] * sizes[:, 1]).sum() == x.shape[1])
        torch._check_tensor_all(x.sum() < 1e6)
        return self.linear(x)


@functools.lru_cache
def waves(height: int, width: int) -> torch.Tensor:
    """An embedding of positions."""
    return torch.arange(float(height * width)).sin().view(1, 1, height, width)


class Remembers(nn.Module):
    """Keeps an embedding of positions for each height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.kept: dict[Any, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        key = (y.shape[2], y.shape[3], y.device)
        if (found := self.kept.get(key)) is None:
            found = waves(y.shape[2], y.shape[3])
            self.kept[key] = found
        return self.last(torch.relu(y + found))


class WithHead(nn.Module):
    """A network that is a region, and code of its own behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Remembers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).flatten(2).max(2).values


def same_at_any_batch(model: nn.Module, x: torch.Tensor) -> torch.fx.GraphModule:
    model.eval()
    found = capture(model, (x,))
    for batch in (1, len(x), 7):
        other = torch.randn(batch, *x.shape[1:])
        with torch.no_grad():
            torch.testing.assert_close(found(other), model(other))
    return found


def test_len_of_a_tensor_is_its_first_dimension() -> None:
    model = Lengths()
    same_at_any_batch(model, torch.randn(5, 4))
    assert "len" not in vars(sys.modules[Lengths.__module__])  # the user's file is as it was


def test_a_kept_shape_does_not_fix_the_batch() -> None:
    model = KeepsShape()
    model(torch.randn(5, 3, 4, 6))  # so that a shape is kept
    kept, offsets = model.shape, model.offsets.clone()
    capture(model, (torch.randn(5, 3, 4, 6),))
    assert model.shape == kept
    assert torch.equal(model.offsets, offsets)
    same_at_any_batch(model, torch.randn(5, 3, 4, 6))


def test_checks_are_no_part_of_what_is_captured() -> None:
    found = same_at_any_batch(Checks(), torch.randn(5, 4))
    computing = [node.target for node in found.graph.nodes if node.op == "call_function"]
    assert [str(target) for target in computing] == ["aten.linear.default"]


def test_a_cache_by_height_and_width_is_captured_in_a_region() -> None:
    torch.manual_seed(0)
    model = WithHead().eval()
    images = torch.rand(5, 3, 6, 7)
    expected = model(images)
    plain = subbyte.Recipe(method="range", ranges="minmax", regions=("network",))
    quantized = subbyte.quantize(model, [images], plain)
    assert [layer.integer for layer in quantized.placement.layers] == [True, True]
    with torch.no_grad():
        torch.testing.assert_close(quantized.float_model(images[:3]), expected[:3])
        torch.testing.assert_close(quantized(images), expected, atol=0.05, rtol=0)
