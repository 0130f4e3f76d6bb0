"""Which nodes are layers, their names, and which stand first and last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from subbyte.graph.capture.export import capture
from subbyte.graph.layers import find_layers, first_layers, last_layers


def layers_of(model: nn.Module, *args: torch.Tensor) -> list[tuple[str, str]]:
    return [(f.name, f.operation) for f in find_layers(capture(model, args).graph)]


def ends_of(model: nn.Module, *args: torch.Tensor) -> set[str]:
    graph = capture(model, args).graph
    layers = find_layers(graph)
    return first_layers(graph, layers) | last_layers(graph, layers)


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 4, 3, padding="same")
        self.body = nn.ModuleDict({"a": nn.Sequential(nn.ReLU(), nn.Conv1d(4, 4, 1))})
        self.head = nn.Linear(4, 2)
        self.table = nn.Parameter(torch.randn(2, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.body["a"](self.stem(x)).mean(2))
        return y @ self.table


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        return self.out((q @ k.transpose(-2, -1)).softmax(-1) @ v)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x)


class Unusual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2)
        self.deep = nn.ConvTranspose3d(1, 1, 1)
        self.scaled = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.deep(self.up(self.conv(x))[:, None])[:, 0].mean((2, 3))
        return F.linear(y, self.scaled.weight * y.mean())


class Branches(nn.Module):
    """Two layers read the input; two, and a third behind neither, make the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.middle = nn.Conv2d(4, 4, 1)
        self.boxes, self.scores = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = (x - 0.5) / 0.2
        y = self.middle(F.relu(self.left(x) + self.right(x.flip(3))))
        return self.boxes(y).flatten(1), self.scores(y).sigmoid()


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.last(self.second(y)) + y


def test_layers_have_the_names_that_the_user_gave_them() -> None:
    assert layers_of(Nested(), torch.randn(2, 3, 8)) == [
        ("stem", "conv"),
        ("body.a.1", "conv"),
        ("head", "linear"),
        ("table", "linear"),
    ]


def test_a_product_of_activations_is_a_layer_of_its_module() -> None:
    assert layers_of(Model(), torch.randn(2, 5, 8)) == [
        ("attention.query", "linear"),
        ("attention.key", "linear"),
        ("attention.value", "linear"),
        ("attention.matmul", "matmul"),
        ("attention.matmul_2", "matmul"),
        ("attention.out", "linear"),
    ]


def test_a_layer_that_stays_in_float_says_why() -> None:
    found = find_layers(capture(Unusual(), (torch.randn(2, 3, 4, 4),)).graph)
    assert [(f.name, f.reason) for f in found[:3]] == [
        ("conv", ""),
        ("up", ""),
        ("deep", "3-d convolutions have no integer kernel in the runtimes"),
    ]
    assert found[3].reason == "its weight is computed while the model runs"


def test_a_module_that_is_called_twice_is_found_twice() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    first, second = layers_of(model, torch.randn(2, 4))
    assert first == second
    assert first in [("0", "linear"), ("2", "linear")]


def test_first_and_last_of_a_chain() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert ends_of(model, torch.randn(2, 4)) == {"0", "4"}


def test_first_and_last_of_branches() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert ends_of(Branches(), x) == {"left", "right", "boxes", "scores"}


def test_a_layer_that_skips_to_the_output_is_last_as_well() -> None:
    assert ends_of(Skip(), torch.randn(2, 4)) == {"first", "last"}


def test_a_layer_in_float_does_not_stand_first_or_last() -> None:
    class Deep(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[2](self[1](self[0](x))[:, None])

    model = Deep(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 2), nn.ConvTranspose3d(1, 1, 1))
    assert ends_of(model, torch.randn(2, 3, 4, 4)) == {"0", "1"}
