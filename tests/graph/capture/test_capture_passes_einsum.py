"""Products by `einsum` and the like, which are layers like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import subbyte
from processor import FITTING
from subbyte.api import capture
from subbyte.graph.float_model import FloatModel
from subbyte.targets import onnxruntime, openvino

X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
MORE = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(2))
Use = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A linear layer, and something behind it, with parameters of several ranks."""

    def __init__(self, use: Use) -> None:
        super().__init__()
        self.first, self.use = nn.Linear(6, 6), use
        self.w, self.vector = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.out, self.back = nn.Parameter(torch.randn(6, 2, 3)), nn.Parameter(torch.randn(2, 3, 6))
        self.bilinear = nn.Bilinear(6, 6, 4)
        self.lstm, self.cell = nn.LSTM(6, 5, batch_first=True), nn.GRUCell(6, 6)
        self.gru, self.rnn = nn.GRU(6, 5, batch_first=True), nn.RNN(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, self.first(x))


def einsum(equation: str, *others: str) -> Use:
    """The equation with x and these: "x" for it doubled, else a parameter."""

    def use(net: Net, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 3))
        known = {"x": x, "2x": x * 2, "heads": heads, "2heads": heads * 2, "row": x[:, 1]}
        return torch.einsum(equation, *(known.get(n, getattr(net, n, x)) for n in others))

    return use


def two_steps(net: Net, x: Tensor) -> Tensor:
    hidden = net.cell(x[:, 0])
    return net.cell(x[:, 1], hidden)


# What computes, and the layers that stand behind the first: name → operation.
PRODUCTS: dict[str, tuple[Use, dict[str, str]]] = {
    "scores": (einsum("bid,bjd->bij", "x", "2x"), {"matmul": "matmul"}),
    "implicit": (einsum("bid,bjd", "x", "2x"), {"matmul": "matmul"}),
    "heads": (einsum("bqhd,bkhd->bhqk", "heads", "2heads"), {"matmul": "matmul"}),
    "ellipsis": (einsum("...id,...jd->...ij", "heads", "2heads"), {"matmul": "matmul"}),
    "one head": (einsum("bqhd,bqk->bhdk", "heads", "x"), {"matmul": "matmul"}),
    "two summed": (einsum("bihd,bjhd->bij", "heads", "2heads"), {"matmul": "matmul"}),
    "a letter alone": (einsum("bid,bjd->bi", "x", "2x"), {"matmul": "matmul"}),
    "with a vector": (einsum("bid,bd->bi", "x", "row"), {"matmul": "matmul"}),
    "a vector first": (einsum("bd,bid->bi", "row", "x"), {"matmul": "matmul"}),
    "columns": (einsum("bid,df->bif", "x", "w"), {"w": "linear"}),
    "rows": (einsum("bid,fd->bif", "x", "w"), {"w": "linear"}),
    "parameter first": (einsum("fd,bid->bfi", "w", "x"), {"w": "linear"}),
    "into heads": (einsum("bnd,dhe->bnhe", "x", "out"), {"out": "linear"}),
    "out of heads": (einsum("bnhe,hed->bnd", "heads", "back"), {"back": "linear"}),
    "any rank": (einsum("...d,df->...f", "x", "w"), {"w": "linear"}),
    "three": (einsum("bid,df,bjf->bij", "x", "w", "2x"), {"w": "linear", "matmul": "matmul"}),
    "a vector": (einsum("bid,d->bi", "x", "vector"), {"vector": "linear"}),
    "tensordot": (lambda net, x: torch.tensordot(x, net.w, dims=1), {"w": "linear"}),
    "tensordot of two": (
        lambda net, x: torch.tensordot(x.unflatten(-1, (2, 3)), net.back, dims=2),
        {"back": "linear"},
    ),
    "inner": (lambda net, x: torch.inner(x, net.w), {"w": "linear"}),
    "mv": (lambda net, x: torch.mv(x[:, 0], net.vector), {"vector": "linear"}),
    "addmm": (
        lambda net, x: torch.addmm(net.vector, x[:, 0], net.w, alpha=0.5, beta=2),
        {"w": "linear"},
    ),
    "baddbmm": (
        lambda _, x: torch.baddbmm(x[:, :, :5], x, x.transpose(1, 2), alpha=0.5, beta=0.25),
        {"matmul": "matmul"},
    ),
    "outer": (lambda _, x: torch.einsum("bi,bj->bij", x[:, 0], x[:, 1]), {}),
    "vectors": (lambda _, x: torch.einsum("bd,bd->b", x[:, 0], x[:, 1]), {}),
    "diagonal": (lambda _, x: torch.einsum("bii->bi", x[:, :, :5]), {}),
}

FLOAT: dict[str, tuple[Use, str, str]] = {
    "bilinear": (lambda net, x: net.bilinear(x, x), "bilinear", "no integer kernel"),
    "left": (lambda net, x: net.w @ x.transpose(1, 2), "w", "first factor of the product"),
    "lstm": (lambda net, x: net.lstm(x)[0], "lstm", "recurrent"),
    "gru": (lambda net, x: net.gru(x)[0], "gru", "recurrent"),
    "rnn": (lambda net, x: net.rnn(x)[0], "rnn", "recurrent"),
    "cell": (two_steps, "cell", "recurrent"),
}


def captured(use: Use) -> tuple[nn.Module, FloatModel]:
    net = Net(use).eval()
    return net, capture(net, (X,))


@pytest.mark.parametrize("name", PRODUCTS)
def test_it_computes_what_it_did(name: str) -> None:
    net, float_model = captured(PRODUCTS[name][0])
    with torch.no_grad():
        expected = net.double()(MORE.double())
        torch.testing.assert_close(float_model(MORE).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRODUCTS)
def test_it_is_a_layer(name: str) -> None:
    use, expected = PRODUCTS[name]
    _, *found = captured(use)[1].layers[""]
    assert {layer.name: layer.operation for layer in found} == expected
    assert not any(layer.reason for layer in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT)
def test_what_stays_in_float_is_listed_once_with_the_reason(name: str) -> None:
    use, layer, reason = FLOAT[name]
    _, *found = captured(use)[1].layers[""]
    (only,) = found
    assert only.name == layer
    assert reason in only.reason


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.last = nn.Linear(32, 96), nn.Linear(32, 6)
        self.out = nn.Parameter(torch.randn(4, 8, 32) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q * 8**-0.5, k).softmax(-1)
        y = torch.einsum("bhij,bjhd->bihd", scores, v)
        return self.last(torch.einsum("bihd,hde->bie", y, self.out).relu()).mean(1)


def test_attention_by_einsum_runs_on_integers(tmp_path: Path) -> None:
    model, x = Attention().eval(), torch.randn(8, 9, 32)
    quantized = subbyte.quantize(model, [x], subbyte.Recipe(method="range", **FITTING))
    layers = quantized.placement.layers
    assert [layer.name for layer in layers] == ["qkv", "matmul", "matmul_2", "out", "last"]
    assert all(layer.integer for layer in layers)
    with torch.no_grad():
        exact, found = model.double()(x.double()), quantized(x)
    assert float((found - exact).norm() / exact.norm()) < 0.02
    subbyte.export(quantized, tmp_path / "model.onnx", x[:2])
    for runtime in (onnxruntime, openvino):
        session = runtime.load(tmp_path / "model.onnx", 1)
        assert session.int8_ops() >= 5
        (deployed,) = session.run(x.numpy())
        assert float((torch.from_numpy(deployed) - found).norm() / found.norm()) < 1e-3
