"""Qualified names of modules and parameters, made of the names in an ONNX file."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from torch import nn

SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch's exporter writes the path of the module
# What exporters call values that have no name of their own.
NAMELESS = re.compile(
    r"\d+|onnx::.*|(.*[/._])?val_\d+|(.*/)?Constant(_\d+)?(_output_\d+)?|.*_output_\d+"
    r"|.*const_fold_opt.*|(_v_|p2o\.|helper\.).*|Constant.*|t\d+|_inlfunc_.*"
)
# What the names of weights end in, beside the name of their layer.
WEIGHT = re.compile(
    r"([./](weight|kernel|weights|w_\d+|w|W|Conv2D|depthwise|depthwise_kernel|MatMul|BiasAdd)"
    r"|/ReadVariableOp(/resource)?|/read|:0)$"
)
RESERVED = set(dir(nn.Module())) | {"steps", "operands"}


def scope_of(name: str, operator: str, properties: Mapping[str, str]) -> str:
    """The qualified name of the module that a node belongs to, as well as its names say.

    "/layer1/layer1.0/conv1/Conv" belongs to "layer1.0.conv1"; a name without a path is its own.

    Args:
        name: The node's name.
        operator: What it computes.
        properties: The node's metadata.
    """
    if SCOPES in properties:
        scopes = [str(scope) for scope in ast.literal_eval(properties[SCOPES])][:-1]
        paths = [scope for scope in scopes if scope and not scope.startswith("_empty_nn_module")]
        return qualified(paths[-1]) if paths else ""
    parts = [part for part in name.split("/") if part]
    own = len(parts) > 1 and parts[-1].startswith(operator)
    kept: list[str] = []
    for part in parts[:-1] if own else parts:
        if kept and part.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(part)
    return qualified(".".join(kept))


def qualified(name: str) -> str:
    """A name as a path of modules: dots for slashes, and only what names may hold."""
    parts = [re.sub(r"[^\w-]", "_", part) for part in re.split(r"[./]", name)]
    return ".".join(f"{p}_" if p in RESERVED else p for p in parts if p)


def is_name(name: str) -> bool:
    """Whether a name in a file says what it names, and was not made up by an exporter."""
    return NAMELESS.fullmatch(name) is None


def layer_of(weight: str) -> str:
    """The name of a layer by that of its weight: "head.conv" for "head.conv.weight"."""
    while (shorter := WEIGHT.sub("", weight)) != weight and shorter:
        weight = shorter
    return qualified(weight)
