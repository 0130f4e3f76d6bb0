"""Biases of linear layers in any shape that PyTorch takes, made a number for each output."""

from __future__ import annotations

from torch import fx

from subbyte.graph.operators import LINEAR, A, get_tensor, put_tensor


def make_biases_plain(module: fx.GraphModule) -> None:
    """Give every linear layer a bias of the shape (outputs,), in place.

    PyTorch adds whatever can be broadcast. A parameter of as many values, or of one, takes the
    plain shape; what is more, or has other readers, is added behind the layer.
    """
    for node in [n for n in module.graph.nodes if n.target in LINEAR]:
        bias = node.args[2] if len(node.args) > 2 else None
        if not isinstance(bias, fx.Node):
            continue
        outputs, value = node.meta["val"].shape[-1], bias.meta["val"]
        if list(value.shape) == [outputs]:
            continue
        alone = bias.op == "get_attr" and len(bias.users) == 1
        row = value.numel() == outputs == value.shape[-1]
        if alone and (row or value.numel() == 1):
            _reshape(module, bias, outputs)
        else:
            _add_behind(module, node, bias)
    module.recompile()


def _reshape(module: fx.GraphModule, bias: fx.Node, outputs: int) -> None:
    value = get_tensor(module, bias).reshape(-1).expand(outputs).clone()
    put_tensor(module, str(bias.target), value)
    bias.meta = {**bias.meta, "val": bias.meta["val"].fake_mode.from_tensor(value)}


def _add_behind(module: fx.GraphModule, node: fx.Node, bias: fx.Node) -> None:
    with module.graph.inserting_after(node):
        total = module.graph.call_function(A.add.Tensor, (node, bias))
    total.meta = dict(node.meta)
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    node.args = node.args[:2]
