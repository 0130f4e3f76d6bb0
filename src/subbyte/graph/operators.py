"""The ATen operators this package knows by name, and small helpers for graph nodes."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx, nn

A = torch.ops.aten

CONV = {A.conv1d.default, A.conv1d.padding, A.conv2d.default, A.conv2d.padding}
TRANSPOSED = {A.conv_transpose1d.default, A.conv_transpose2d.input}
LINEAR = {A.linear.default}
MATMUL = {A.matmul.default, A.bmm.default, A.mm.default}
# Layers whose weights are not quantized, with the reason that a user is given.
FLOAT_LAYERS = {
    A.conv3d.default: "3-d convolutions have no integer kernel in the runtimes",
    A.conv3d.padding: "3-d convolutions have no integer kernel in the runtimes",
    A.conv_transpose3d.input: "3-d convolutions have no integer kernel in the runtimes",
}
RECURRENT = "recurrent layers stay in float"
# Layers of more than one product, likewise.
FLOAT_MODULES = {
    A.gru.input: RECURRENT,
    A.gru.data: RECURRENT,
    A.gru_cell.default: RECURRENT,
    A.lstm.input: RECURRENT,
    A.lstm.data: RECURRENT,
    A.lstm_cell.default: RECURRENT,
    A.rnn_relu.data: RECURRENT,
    A.rnn_relu.input: RECURRENT,
    A.rnn_relu_cell.default: RECURRENT,
    A.rnn_tanh.data: RECURRENT,
    A.rnn_tanh.input: RECURRENT,
    A.rnn_tanh_cell.default: RECURRENT,
    A.bilinear.default: "bilinear layers have no integer kernel in the runtimes",
}
# Discrete Fourier transforms along whole dimensions.
FOURIER = {A._fft_r2c.default, A._fft_c2c.default, A._fft_c2r.default}

ADD = {A.add.Tensor}
MUL = {A.mul.Tensor}
# Functions that limit values, with the limits that they have where a node does not say others.
LIMITS: dict[Any, tuple[float, float]] = {
    A.relu.default: (0.0, math.inf),
    A.relu6.default: (0.0, 6.0),
    A.hardtanh.default: (-1.0, 1.0),
    A.clamp.default: (-math.inf, math.inf),
    A.clip.default: (-math.inf, math.inf),
    A.clamp_min.default: (-math.inf, math.inf),
    A.clamp_max.default: (-math.inf, math.inf),
}
# Functions of one tensor, value by value.
POINTWISE = {
    A.elu.default,
    A.gelu.default,
    A.hardsigmoid.default,
    A.hardswish.default,
    A.leaky_relu.default,
    A.mish.default,
    A.sigmoid.default,
    A.silu.default,
    A.softplus.default,
    A.tanh.default,
}
NEVER_NEGATIVE = {
    A.softmax.int,
    A._softmax.default,
    A._safe_softmax.default,
    A.sigmoid.default,
    A.relu.default,
    A.relu6.default,
}
POOL = {
    A.avg_pool2d.default,
    A.avg_pool1d.default,
    A.adaptive_avg_pool2d.default,
    A.adaptive_avg_pool1d.default,
}
CAT = {A.cat.default}
MAX_POOL = {A.max_pool2d.default, A.max_pool1d.default}
# Operators that move values but change none, so that both sides of them can be quantized alike. One
# that keeps a single one of a dimension is not among them: what it leaves out (all tokens but the
# first, the keys and values beside the queries) has a range of its own.
MOVES = (
    {
        A.view.default,
        A.reshape.default,
        A.flatten.using_ints,
        A.unflatten.int,
        A.squeeze.default,
        A.squeeze.dim,
        A.squeeze.dims,
        A.unsqueeze.default,
        A.permute.default,
        A.transpose.int,
        A.t.default,
        A.slice.Tensor,
        A.roll.default,
        A.expand.default,
        A.split.Tensor,
        A.split_with_sizes.default,
        A.chunk.default,
        A.contiguous.default,
        A.clone.default,
        A.alias.default,
        A.detach.default,
        A.dropout.default,
        A.pixel_shuffle.default,
        A.channel_shuffle.default,
    }
    | CAT
    | MAX_POOL
)


def is_move(node: fx.Node) -> bool:
    """Whether the node only moves values of its input(s); padding with zeros counts.

    So does padding with minus infinity that maximum pooling alone reads.
    """
    if node.target in (A.constant_pad_nd.default, A.pad.default):
        mode, value = "constant", node.args[-1]
        if node.target is A.pad.default and len(node.args) > 2:
            mode = str(node.args[2])
        if value == -math.inf:
            return mode == "constant" and all(user.target in MAX_POOL for user in node.users)
        return mode == "constant" and (value in (0, None) or not isinstance(value, int | float))
    if node.target is operator.getitem:
        return isinstance(node.args[0], fx.Node) and is_move(node.args[0])
    return node.target in MOVES


def is_global_pool(node: fx.Node) -> bool:
    """Whether the node averages over height and width of an N×C×H×W tensor, to N×C(×1×1)."""
    if rank_of(node.args[0] if node.args else None) != 4:
        return False
    if node.target is A.adaptive_avg_pool2d.default:
        return all(size == 1 for size in _ints(node.args[1]))
    if node.target is A.mean.dim:
        return sorted(d % 4 for d in _ints(node.args[1])) == [2, 3]
    return False


def is_never_negative(node: fx.Node) -> bool:
    """Whether no value of a node is below 0: a softmax, sigmoid or ReLU, moved perhaps."""
    while is_move(node) and len(tensor_inputs(node)) == 1:
        node = tensor_inputs(node)[0]
    return node.target in NEVER_NEGATIVE


def clamp_of(node: Any) -> tuple[float, float] | None:
    """The limits of a ReLU, ReLU6, hardtanh or clamp to numbers; `None` for any other node."""
    if not isinstance(node, fx.Node) or node.target not in LIMITS:
        return None
    low, high = LIMITS[node.target]
    given: list[Any] = [*node.args[1:3], None, None]
    if node.target is A.clamp_max.default:
        given.insert(0, None)
    for i, name in enumerate(("min", "max")):
        given[i] = node.kwargs.get(name, given[i])
    if any(isinstance(end, fx.Node) for end in given):
        return None
    return (
        low if given[0] is None else float(given[0]),
        high if given[1] is None else float(given[1]),
    )


def limits_channels(node: Any) -> bool:
    """Whether a node is a ReLU with an upper limit for each channel, as `equalize` makes them."""
    if not isinstance(node, fx.Node) or node.target is not A.clamp.Tensor or len(node.args) != 3:
        return False
    ends = node.args[1:]
    constant = all(isinstance(end, fx.Node) and end.op == "get_attr" for end in ends)
    return constant and rank_of(ends[0]) == 0 and _shape(node) == _shape(node.args[0])


def is_relu(node: Any) -> bool:
    """Whether runtimes compute a node along with the layer before it."""
    return clamp_of(node) is not None or limits_channels(node)


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes among a node's arguments whose value is a tensor or a tuple of tensors."""
    return [n for n in node.all_input_nodes if not is_number(n)]


def tensor_readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read a node's values, and not its lengths alone."""
    return [user for user in node.users if not is_number(user)]


def rank_of(node: Any) -> int | None:
    """Number of dimensions of a node's tensor, as seen at capture."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else None


def _shape(node: Any) -> list[str]:
    return [str(length) for length in node.meta["val"].shape]


def module_path(node: fx.Node) -> str:
    """Qualified name of the user's module in which a node was traced."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values() if "_empty_nn_module" not in str(path)]
    return paths[-1] if paths else ""


def get_tensor(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    value: torch.Tensor = operator.attrgetter(str(node.target))(module)
    return value


def weight_of(module: fx.GraphModule, layer: fx.Node) -> torch.Tensor:
    """The weight of a convolution or linear layer whose weight is a parameter."""
    node = layer.args[1]
    assert isinstance(node, fx.Node)
    return get_tensor(module, node)


def put_tensor(module: fx.GraphModule, name: str, value: torch.Tensor) -> None:
    """Set a parameter to a value.

    Args:
        module: The graph module.
        name: The parameter's qualified name; its parents exist.
        value: The value, which is detached.
    """
    path, _, attribute = name.rpartition(".")
    parent = module.get_submodule(path) if path else module
    # A tensor that the user's code makes as it runs is neither: `torch.export` keeps it as it is.
    for place in (parent._buffers, parent._parameters, parent.__dict__):
        place.pop(attribute, None)
    parent.register_parameter(attribute, nn.Parameter(value.detach(), requires_grad=False))


def add_constant(module: fx.GraphModule, like: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    """A new buffer, by a name that is free, and in front of a node one that reads it.

    Args:
        module: The graph module.
        like: The node in front of which the new one stands; it lends its metadata.
        name: The buffer's name, to which underscores are added until it is free.
        value: Its value.

    Returns:
        The node that reads the buffer.
    """
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, value)
    with module.graph.inserting_before(like):
        new = module.graph.get_attr(name)
    new.meta = {**like.meta, "val": like.meta["val"].fake_mode.from_tensor(value)}
    return new


def groups_of(node: fx.Node) -> int:
    """Of how many groups of channels that do not mix a convolution consists."""
    position = 6  # behind stride and padding comes dilation, or what is added to the result's end
    groups: Any = node.kwargs.get("groups", node.args[position] if len(node.args) > position else 1)
    return int(groups)


def is_number(node: fx.Node) -> bool:
    """Whether a node's value is a number, such as a length of a tensor."""
    value = node.meta.get("val")
    return value is not None and not isinstance(value, torch.Tensor | list | tuple)


def _ints(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
