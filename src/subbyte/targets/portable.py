"""The file for all runtimes: each runs it with int8 kernels, and none computes it wrong."""

from __future__ import annotations

from subbyte.targets.onnx.rewrites.batch_size import ask_first
from subbyte.targets.onnx.rewrites.bias_scales import multiply_bias_scales
from subbyte.targets.onnx.rewrites.circular_padding import slice_circular_padding
from subbyte.targets.onnx.rewrites.defaults import leave_out_defaults
from subbyte.targets.onnx.rewrites.extremes import keep_extremes
from subbyte.targets.onnx.rewrites.float_weights import keep_float_weights
from subbyte.targets.onnx.rewrites.limits import merge_limits
from subbyte.targets.onnx.rewrites.output_name import rename_output
from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.packing import pack
from subbyte.targets.onnx.rewrites.padded_pooling import pad_integers
from subbyte.targets.onnx.rewrites.padded_strides import keep_strides
from subbyte.targets.onnx.rewrites.pairs import part_pairs
from subbyte.targets.onnx.rewrites.products import write_products
from subbyte.targets.onnx.rewrites.quantized_softmax import keep_softmax
from subbyte.targets.onnx.rewrites.resizing import write_resizing
from subbyte.targets.onnx.rewrites.second_readers import part_readers
from subbyte.targets.onnx.rewrites.shared_weights import copy_shared_weights
from subbyte.targets.onnx.rewrites.short_names import shorten_names
from subbyte.targets.onnx.rewrites.split_linears import split_linears
from subbyte.targets.onnx.rewrites.styles import stop_fusions
from subbyte.targets.onnx.rewrites.turned_images import keep_turned_images

REWRITES = (
    copy_shared_weights,
    slice_circular_padding,
    write_resizing,
    merge_limits,
    stop_fusions,
    keep_float_weights,
    split_linears,
    write_products,
    write_own_operators,
    part_pairs,
    part_readers,
    keep_extremes,
    pad_integers,
    keep_strides,
    keep_turned_images,
    keep_softmax,
    ask_first,
    pack,
    multiply_bias_scales,
    rename_output,
    leave_out_defaults,
    shorten_names,
)
