"""From an ONNX file to a module."""

from __future__ import annotations

from pathlib import Path

from subbyte.models.onnx.affine import with_biases
from subbyte.models.onnx.batch import with_any_batch
from subbyte.models.onnx.constants import folded
from subbyte.models.onnx.fusions import fused
from subbyte.models.onnx.linears import with_linears
from subbyte.models.onnx.module import OnnxModule
from subbyte.models.onnx.patches import with_patches
from subbyte.models.onnx.reading import read
from subbyte.models.onnx.translate import translated


def load_onnx(path: str | Path) -> OnnxModule:
    """The network of an ONNX file as a module in float32 and evaluation mode.

    It takes the file's inputs as positional arguments and returns its output, or a tuple of its
    outputs; `input_names` and `output_names` are the file's. Layers are called as the file's
    weights or nodes are. Any batch size runs, also if the file's is fixed.

    Raises:
        SubbyteError: The file is broken or quantized already, has an operator that has no
            counterpart, takes no images, or its batch is fixed and cannot be made dynamic.
    """
    network = with_biases(with_patches(fused(with_linears(folded(read(Path(path)))))))
    module = translated(network).eval()
    checked = with_any_batch(module, network)
    module.steps, module.output_ranks = checked.steps, checked.ranks
    module.input_shapes = tuple(given.shape for given in network.inputs)
    return module
