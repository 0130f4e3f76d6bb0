"""Ways for ONNX Runtime to compute a convolution that reads integers and gives floats.

    uv run python benchmarks/last_convolutions.py [--rounds 30]

A convolution by itself, as the last ones of detectors' heads are: left in float behind a
dequantization (`float`), ConvInteger, a matrix product of the patches that it reads (`product`,
what Subbyte writes for ONNX Runtime), and QLinearConv, whose result has 8 bits. On one
thread, taking turns; times are those of the processor, ratios medians over the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

# Channels in and out, side of the feature map, side of the kernel.
SHAPES = {
    "SSD300-VGG16, boxes": (512, 16, 38, 3),
    "SSD300-VGG16, classes": (512, 364, 38, 3),
    "SSD300-VGG16, classes, second map": (1024, 546, 19, 3),
    "RetinaNet at 320, boxes": (256, 36, 40, 3),
    "RetinaNet at 320, classes": (256, 819, 40, 3),
    "RetinaNet at 320, classes, third map": (256, 819, 10, 3),
    "SSDlite320, classes, second map": (480, 546, 10, 1),
    "YOLOX-nano, one map": (64, 80, 52, 1),
}
Constants = dict[str, Any]  # arrays, or numbers of NumPy's types
Graph = tuple[list[NodeProto], Constants]


def main() -> None:
    """Print a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    print("| convolution | shape | float, ms | " + " | ".join(list(WAYS)[1:]) + " |")
    print("|---|---|" + "---:|" * len(WAYS))
    for name, shape in SHAPES.items():
        channels, _, side, _ = shape
        x = np.random.default_rng(1).uniform(0, 4, (1, channels, side, side)).astype("f4")
        sessions = {way: opened(graph, shape) for way, graph in WAYS.items()}
        times: dict[str, list[float]] = {way: [] for way in sessions}
        for _ in range(rounds + 2):
            for way, session in sessions.items():
                started = time.process_time()
                session.run(None, {"x": x})
                times[way].append(time.process_time() - started)
        taken = {way: np.array(values[2:]) for way, values in times.items()}
        ratios = [f"{np.median(taken[way] / taken['float']):.2f}" for way in list(WAYS)[1:]]
        cells = [name, "×".join(map(str, shape)), f"{1000 * np.median(taken['float']):.2f}"]
        print(f"| {' | '.join([*cells, *ratios])} |", flush=True)


def opened(
    graph: Callable[[int, int, int, int], Graph], shape: tuple[int, int, int, int]
) -> onnxruntime.InferenceSession:
    """A session with a quantized input, then one way to compute the convolution."""
    channels, outputs, side, _ = shape
    nodes, constants = graph(*shape)
    constants |= {"step": np.float32(0.02), "zero": np.uint8(3)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]), *nodes]
    shapes = {"x": [1, channels, side, side], "y": [1, outputs, side, side]}
    x, y = (helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in shapes.items())
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "convolution", [x], [y], stored)
    model: ModelProto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def parameters(channels: int, outputs: int, kernel: int) -> Constants:
    generator = np.random.default_rng(0)
    shape = (outputs, channels, kernel, kernel)
    scale = generator.uniform(0.001, 0.002, outputs).astype("f4")
    return {
        "w": generator.integers(-127, 128, shape).astype("i1"),
        "w_scale": scale,
        "b": generator.integers(-1000, 1000, outputs).astype("i4"),
        "b_scale": np.float32(0.02) * scale,
    }


def in_float(channels: int, outputs: int, side: int, kernel: int, result: str = "y") -> Graph:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_float"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale"], ["b_float"], axis=0),
        helper.make_node("Conv", ["d", "w_float", "b_float"], [result], pads=[kernel // 2] * 4),
    ]
    return nodes, parameters(channels, outputs, kernel)


def quantized(channels: int, outputs: int, side: int, kernel: int) -> Graph:
    nodes, constants = in_float(channels, outputs, side, kernel, "c")
    qparams = ["y_scale", "y_zero"]
    nodes += [
        helper.make_node("QuantizeLinear", ["c", *qparams], ["c_q"]),
        helper.make_node("DequantizeLinear", ["c_q", *qparams], ["y"]),
    ]
    return nodes, constants | {"y_scale": np.float32(0.5), "y_zero": np.uint8(128)}


def conv_integer(channels: int, outputs: int, side: int, kernel: int) -> Graph:
    constants = parameters(channels, outputs, kernel)
    for name in ("b", "b_scale"):
        constants[name] = constants[name].reshape(1, -1, 1, 1)
    nodes = [
        helper.make_node("ConvInteger", ["q", "w", "zero"], ["c"], pads=[kernel // 2] * 4),
        helper.make_node("Add", ["c", "b"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "b_scale"], ["y"]),
    ]
    return nodes, constants


def product(channels: int, outputs: int, side: int, kernel: int) -> Graph:
    constants, around = parameters(channels, outputs, kernel), kernel // 2
    constants["w"] = constants["w"].transpose(2, 3, 1, 0).reshape(-1, outputs)
    constants |= {"pads": np.array([0, around, around, 0] * 2), "axes": np.array([1, 2])}
    nodes = [
        helper.make_node("Transpose", ["q"], ["q_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Pad", ["q_last", "pads", "zero"], ["padded"]),
    ]
    taken = []
    for i, j in np.ndindex(kernel, kernel):
        begin, end, name = f"from_{i}{j}", f"to_{i}{j}", f"taken_{i}{j}"
        constants |= {begin: np.array([i, j]), end: np.array([i + side, j + side])}
        nodes.append(helper.make_node("Slice", ["padded", begin, end, "axes"], [name]))
        taken.append(name)
    nodes += [
        helper.make_node("Concat", taken, ["patches"], axis=3),
        helper.make_node("DequantizeLinear", ["patches", "step", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_float"], axis=1),
        helper.make_node("DequantizeLinear", ["b", "b_scale"], ["b_float"], axis=0),
        helper.make_node("MatMul", ["d", "w_float"], ["m"]),
        helper.make_node("Sum", ["m", "b_float"], ["sums"]),
        helper.make_node("Transpose", ["sums"], ["y"], perm=[0, 3, 1, 2]),
    ]
    return nodes, constants


WAYS: dict[str, Callable[[int, int, int, int], Graph]] = {
    "float": in_float,
    "ConvInteger": conv_integer,
    "product": product,
    "QLinearConv": quantized,
}

if __name__ == "__main__":
    main()
