"""Products by `einsum`, `tensordot` and the like written as matrix products, which are layers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from string import ascii_letters
from typing import Any

from torch import fx

from subbyte.graph.capture.passes.parts import Parts
from subbyte.graph.layers import carries_data
from subbyte.graph.operators import A, get_tensor, put_tensor, rank_of


@dataclass(frozen=True)
class _Factor:
    """A tensor with a letter for each of its dimensions.

    Attributes:
        node: That gives it.
        letters: Of its dimensions.
        fixed: Whether it depends on parameters alone.
    """

    node: fx.Node
    letters: str
    fixed: bool = False


def write_products(module: fx.GraphModule) -> None:
    """Write products of tensors as `matmul` or `linear`, in place.

    `einsum` of several tensors is computed from left to right. What is no matrix product stays: an
    outer product, a diagonal, lengths of 1 that stand for others.
    """
    data = carries_data(module.graph)
    for node in list(module.graph.nodes):
        factors, output = _equation(node)
        factors = [replace(factor, fixed=factor.node not in data) for factor in factors]
        if len(factors) < 2 or not _is_plain(factors, output):
            continue
        result = _product(Parts(module, node), factors, output)
        if result is not None:
            if node in data:
                data.add(result)
            node.replace_all_uses_with(result)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _equation(node: fx.Node) -> tuple[list[_Factor], str]:
    """The tensors that a node multiplies, and the letters of what it gives; none for others."""
    args: Any = node.args
    if node.target is A.einsum.default:
        return _of_einsum(args[0], args[1])
    if node.target is A.mv.default:
        return [_Factor(args[0], "ab"), _Factor(args[1], "b")], "a"
    if node.target not in (A.tensordot.default, A.inner.default):
        return [], ""
    ranks = rank_of(args[0]) or 0, rank_of(args[1]) or 0
    dims: Any = args[2:4]
    if node.target is A.inner.default:
        dims = [-1], [-1]
    left = ascii_letters[: ranks[0]]
    right = list(ascii_letters[ranks[0] : sum(ranks)])
    for here, there in zip(*dims, strict=True):
        right[there] = left[here]  # either may count from the end
    output = [x for x in [*left, *right] if (x in left) != (x in right)]
    return [_Factor(args[0], left), _Factor(args[1], "".join(right))], "".join(output)


def _of_einsum(equation: str, nodes: list[fx.Node]) -> tuple[list[_Factor], str]:
    given, arrow, output = re.sub(r"\s", "", equation).partition("->")
    terms = given.split(",")
    free = [letter for letter in ascii_letters if letter not in equation]
    ranks = [rank_of(node) or 0 for node in nodes]
    spans = [
        rank - len(term.replace("...", "")) if "..." in term else 0
        for rank, term in zip(ranks, terms, strict=True)
    ]
    longest = "".join(free[: max(spans)])
    if not arrow:
        counts = Counter(x for term in terms for x in term.replace("...", ""))
        output = "..." + "".join(sorted(x for x, count in counts.items() if count == 1))
    terms = [
        term.replace("...", longest[len(longest) - span :])
        for term, span in zip(terms, spans, strict=True)
    ]
    factors = [_Factor(node, term) for node, term in zip(nodes, terms, strict=True)]
    return factors, output.replace("...", longest)


def _is_plain(factors: list[_Factor], output: str) -> bool:
    """Whether every letter stands once in a tensor, and everywhere for the same length."""
    lengths: dict[str, str] = {}
    for factor in factors:
        shape = factor.node.meta["val"].shape
        if len(set(factor.letters)) != len(factor.letters) or len(shape) != len(factor.letters):
            return False
        for letter, length in zip(factor.letters, shape, strict=True):
            if lengths.setdefault(letter, str(length)) != str(length):
                return False
    return set(output) <= set(lengths) and len(set(output)) == len(output)


def _product(parts: Parts, factors: list[_Factor], output: str) -> fx.Node | None:
    first, second, *rest = factors
    if not rest:
        return _of_two(parts, first, second, output)
    later = {*output, *(letter for factor in rest for letter in factor.letters)}
    both = dict.fromkeys(first.letters + second.letters)
    kept = "".join(letter for letter in both if letter in later)
    node = _of_two(parts, first, second, kept)
    if node is None:
        return None
    product = _Factor(node, kept, first.fixed and second.fixed)
    return _product(parts, [product, *rest], output)


def _of_two(parts: Parts, first: _Factor, second: _Factor, output: str) -> fx.Node | None:
    if first.fixed:
        first, second = second, first
    shared = {*first.letters} & {*second.letters}
    if not shared - {*output}:
        return None  # no matrix product
    first, second = (_summed(parts, x, {*shared, *output}) for x in (first, second))
    batch = "".join(x for x in first.letters if x in shared and x in output)
    inner = "".join(x for x in first.letters if x in shared and x not in output)
    left = "".join(x for x in first.letters if x not in shared)
    right = "".join(x for x in second.letters if x not in shared)
    if not left and not right:
        return None  # products of vectors, one by one
    if second.fixed and not batch:
        product = _with_matrix(parts, first, second, (left, inner, right))
        return _ordered(parts, product, left + right, output)
    more_left, last_left = left[:-1], left[-1:] or " "
    more_right, last_right = right[:-1], right[-1:] or " "
    x = _laid_out(parts, first, [batch, more_left, " " * len(more_right), last_left, inner])
    y = _laid_out(parts, second, [batch, " " * len(more_left), more_right, inner, last_right])
    if len(inner) > 1:
        rank = len(batch) + len(more_left) + len(more_right)
        x = parts.call(A.flatten.using_ints, x, rank + 1, -1)
        y = parts.call(A.flatten.using_ints, y, rank, rank + len(inner) - 1)
    product = parts.call(A.matmul.default, x, y)
    if not right:
        product = parts.call(A.squeeze.dim, product, -1)
    if not left:
        product = parts.call(A.squeeze.dim, product, -2 if right else -1)
    given = batch + more_left + more_right + left[-1:] + right[-1:]
    return _ordered(parts, product, given, output)


def _summed(parts: Parts, factor: _Factor, kept: set[str]) -> _Factor:
    """A factor without the letters that stand in it alone."""
    gone = [i for i, letter in enumerate(factor.letters) if letter not in kept]
    if not gone:
        return factor
    node = parts.call(A.sum.dim_IntList, factor.node, gone)
    return replace(factor, node=node, letters="".join(x for x in factor.letters if x in kept))


def _with_matrix(
    parts: Parts, data: _Factor, weight: _Factor, letters: tuple[str, str, str]
) -> fx.Node:
    """The product with a parameter, as a linear layer or a product with a matrix."""
    left, inner, right = letters
    x = _laid_out(parts, data, [left, inner])
    if len(inner) > 1:
        x = parts.call(A.flatten.using_ints, x, len(left), -1)
    if len(right) == 1 and weight.letters == inner + right and len(inner) == 1:
        return parts.call(A.matmul.default, x, weight.node)
    shape = dict(zip(weight.letters, weight.node.meta["val"].shape, strict=True))
    product = parts.call(A.linear.default, x, _as_matrix(parts, weight, right, inner))
    if len(right) > 1:
        return parts.call(A.unflatten.int, product, -1, [shape[letter] for letter in right])
    return product if right else parts.call(A.squeeze.dim, product, -1)


def _as_matrix(parts: Parts, weight: _Factor, right: str, inner: str) -> fx.Node:
    """A parameter as the weight of a linear layer; one that nothing else reads keeps its name."""
    node = weight.node
    if node.op == "get_attr" and set(node.users) == {parts.node}:
        order = [weight.letters.index(letter) for letter in right + inner]
        value = get_tensor(parts.module, node).permute(order).flatten(len(right))
        value = value.reshape(-1, value.shape[-1]).contiguous()
        put_tensor(parts.module, str(node.target), value)
        node.meta = {**node.meta, "val": node.meta["val"].fake_mode.from_tensor(value)}
        return node
    matrix = _laid_out(parts, weight, [right or " ", inner])
    if len(inner) > 1:
        matrix = parts.call(A.flatten.using_ints, matrix, len(right or " "), -1)
    if len(right) > 1:
        matrix = parts.call(A.flatten.using_ints, matrix, 0, len(right) - 1)
    return matrix


def _laid_out(parts: Parts, factor: _Factor, groups: list[str]) -> fx.Node:
    """A factor with its dimensions in this order; a space is a dimension of length 1."""
    wanted = "".join(groups)
    node = _ordered(parts, factor.node, factor.letters, wanted.replace(" ", ""))
    for i, letter in enumerate(wanted):
        if letter == " ":
            node = parts.call(A.unsqueeze.default, node, i)
    return node


def _ordered(parts: Parts, node: fx.Node, given: str, wanted: str) -> fx.Node:
    if given == wanted:
        return node
    return parts.call(A.permute.default, node, [given.index(letter) for letter in wanted])
