"""Attention taken apart computes what PyTorch's own operators do, and its products are layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from placed import placed
from subbyte.graph.capture.export import capture
from subbyte.recipe import Recipe

LENGTH, WIDTH = 5, 4
LOWER = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
BLIND = LOWER.clone()
BLIND[2] = False  # one query that may see no key
ADDED = torch.randn(1, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3))
WALL = torch.zeros(LENGTH, LENGTH).masked_fill(~BLIND, -math.inf)


class Calls(nn.Module):
    """Functions of the same tensors, side by side, so that one capture shows what becomes of all.

    `buffers` are handed to the functions by their names.
    """

    def __init__(self, *functions: Callable[..., Tensor], **buffers: Tensor) -> None:
        super().__init__()
        self.functions, self.names = functions, list(buffers)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        buffers = {name: getattr(self, name) for name in self.names}
        return tuple(function(*args, **buffers) for function in self.functions)


class Block(nn.Module):
    """Two heads of self-attention as vision transformers have them, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def heads(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def operators(module: fx.GraphModule) -> list[str]:
    return [
        str(node.target).split(".")[1] for node in module.graph.nodes if node.op == "call_function"
    ]


def agrees(model: Calls, args: tuple[Tensor, ...], *others: tuple[Tensor, ...]) -> list[str]:
    """The operators of the simulation model, which gives for all arguments what float64 gives."""
    module = capture(model, args)
    exact = model.double()
    for batch in (args, *others):
        expected = exact(*(x.double() if x.is_floating_point() else x for x in batch))
        for i, (ours, theirs) in enumerate(zip(module(*batch), expected, strict=True)):
            assert torch.isfinite(theirs).all()
            message = f"output {i} differs: {{}}".format
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6, msg=message)
    return operators(module)


def sdpa(mask: str | None = None, **arguments: Any) -> Callable[..., Tensor]:
    """PyTorch's own attention with the buffer `mask`."""
    return lambda q, k, v, **buffers: F.scaled_dot_product_attention(
        q, k, v, None if mask is None else buffers[mask], **arguments
    )


def queries_keys_values(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (heads(batch, 3, LENGTH, WIDTH, seed=seed + i) for i in range(3))
    return q, k, v


def test_it_is_what_pytorch_computes() -> None:
    variants = [
        sdpa(),
        sdpa(dropout_p=0.0),
        sdpa(scale=0.7),
        sdpa(scale=1.0),  # by which nothing is multiplied
        sdpa(is_causal=True),
        sdpa(is_causal=True, scale=2.0),
        sdpa("lower"),
        sdpa("added"),
        sdpa("blind"),
        sdpa("wall"),
    ]
    masks = {"lower": LOWER, "added": ADDED, "blind": BLIND, "wall": WALL}
    model = Calls(*variants, **masks)
    found = agrees(model, queries_keys_values(2), queries_keys_values(7, seed=3))
    assert "scaled_dot_product_attention" not in found
    assert found.count("matmul") == 2 * len(variants)
    assert found.count("mul") == len(variants) - 1
    # Only where a query sees no key is the result 0 and not NaN, by another softmax.
    assert (found.count("softmax"), found.count("_safe_softmax")) == (8, 2)


def test_more_keys_than_queries() -> None:
    q, k, v = heads(2, 3, 2, WIDTH), heads(2, 3, LENGTH, WIDTH), heads(2, 3, LENGTH, 6, seed=2)
    agrees(Calls(sdpa(), sdpa(is_causal=True)), (q, k, v))


def test_a_mask_that_is_an_input() -> None:
    shape = 2, 3, LENGTH, LENGTH
    model = Calls(
        lambda q, k, v, seen, added: F.scaled_dot_product_attention(q, k, v, seen),
        lambda q, k, v, seen, added: F.scaled_dot_product_attention(q, k, v, added),
    )
    one = BLIND.expand(shape), ADDED.expand(shape)
    other = BLIND.T.expand(shape), WALL.expand(shape)
    args = queries_keys_values(2)
    found = agrees(model, (*args, *one), (*args, *other))
    assert found.count("_safe_softmax") == 2  # whatever mask may come


def test_heads_that_share_keys_and_values() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor, shared: int) -> Tensor:
        return F.scaled_dot_product_attention(q, k[:, :shared], v[:, :shared], enable_gqa=True)

    model = Calls(*(partial(attention, shared=n) for n in (1, 2, 4)))
    args = heads(2, 4, 3, WIDTH), heads(2, 4, LENGTH, WIDTH, seed=1), heads(2, 4, LENGTH, WIDTH)
    assert agrees(model, args, tuple(torch.cat([x, -x]) for x in args)).count("matmul") == 6


def test_what_cannot_be_taken_apart_stays() -> None:
    found = operators(capture(Calls(sdpa(dropout_p=0.1)), queries_keys_values(2)))
    assert found == ["scaled_dot_product_attention"]
    # The tokens are the batch here, so that it is not known how many there will be.
    tokens = tuple(heads(6, WIDTH, seed=i) for i in range(3))
    found = agrees(Calls(sdpa(is_causal=True), sdpa()), tokens, tuple(x[:4] for x in tokens))
    assert found.count("scaled_dot_product_attention") == 1
    assert found.count("matmul") == 2


def test_products_with_a_bias() -> None:
    factors: list[dict[str, float]] = [{}, {"alpha": 1, "beta": 1}, {"beta": 0}, {"alpha": 0.5}]
    batched = heads(2, 4, 5), heads(2, 5, 3), heads(2, 1, 3)
    model = Calls(*(lambda a, b, c, f=f: torch.baddbmm(c, a, b, **f) for f in factors))
    assert agrees(model, batched) == ["bmm", "add"] * 2 + ["bmm"] + ["bmm", "mul", "add"]
    plain = heads(2, 5), heads(5, 3), heads(3)
    model = Calls(*(lambda a, b, c, f=f: torch.addmm(c, a, b, **f) for f in factors))
    assert agrees(model, plain) == ["mm", "add"] * 2 + ["mm"] + ["mm", "mul", "add"]


def test_a_view_relies_on_no_strides() -> None:
    # PyTorch's kernel lays its result out as its operands lie in memory, so that this view is one.
    def merged(*args: Tensor) -> Tensor:
        result = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in args))
        return result.transpose(1, 2).view(args[0].shape[0], LENGTH, 3 * WIDTH)

    batches = [tuple(heads(n, LENGTH, 3, WIDTH, seed=i) for i in range(3)) for n in (2, 3)]
    assert "view" not in agrees(Calls(merged), *batches)


def test_its_products_are_layers_of_the_users_module_and_its_softmax_stays_in_float() -> None:
    simulation = placed(Block().eval(), (heads(2, LENGTH, 8),), Recipe())
    products = [layer for layer in simulation.placement.layers if layer.operation == "matmul"]
    assert [layer.name for layer in products] == ["attention.matmul", "attention.matmul_2"]
    assert all(layer.integer for layer in products)
    nodes = {node.name: node for node in simulation.region("").graph.nodes}
    scores, result = (nodes[layer.node] for layer in products)
    (softmax,) = (n for n in nodes.values() if str(n.target).startswith("aten.softmax"))
    assert softmax.args[0] is scores
    quantizer = result.args[0]
    assert (quantizer.op, quantizer.args[0]) == ("call_module", softmax)
