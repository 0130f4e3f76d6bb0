from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from rewrites_helpers import model, normal, qdq, rewritten

from subbyte.targets.onnx.rewrites.own_operators import write_own_operators
from subbyte.targets.onnx.rewrites.short_names import shorten_names

TEXT = (
    "(float[N, 3] x) => (float y, float z) "
    "{ w = DequantizeLinear(weight_fc_weight_integers, weight_fc_weight_scale) "
    "a = Add(x, w) y = Relu(a) z = Mul(a, logit_scale) }"
)


def shortened(**more: np.ndarray) -> ir.Model:
    held = {
        "weight_fc_weight_integers": np.array([1, -2, 3], np.int8),
        "weight_fc_weight_scale": np.float32(0.5),
        "logit_scale": normal(3),
    }
    return rewritten(model(TEXT, **held, **more), shorten_names)


def test_inputs_and_outputs_keep_their_names_and_weights_are_called_after_their_layer() -> None:
    graph = shortened().graph
    assert [value.name for value in (*graph.inputs, *graph.outputs)] == ["x", "y", "z"]
    assert set(graph.initializers) == {"fc_weight", "fc_weight_s", "logit_scale"}
    assert [node.name for node in graph] == ["n0", "n1", "n2", "n3"]
    assert [node.outputs[0].name for node in graph] == ["v0", "v1", "y", "z"]


def test_a_name_that_is_taken_is_not_given_twice() -> None:
    text = "(float[N, 3] v0, float[N, 3] fc_weight) => (float v1) { "
    text += "s = Add(v0, fc_weight) t = Sub(s, weight_fc_weight_scale) v1 = Add(t, fc_weight_s) }"
    constants = {"weight_fc_weight_scale": normal(3), "fc_weight_s": normal(3)}
    graph = rewritten(model(text, **constants), shorten_names).graph
    names = [value.name for value in (*graph.inputs, *graph.initializers.values())]
    names += [value.name for node in graph for value in node.outputs]
    assert len(names) == len(set(names)) == 7


def test_quantizers_hold_short_names() -> None:
    name = "quantize_dequantize_7"
    text = f"(float[N, 3] x) => (float y) {{ {name} = {qdq(0.1, 3)}(x) y = Relu({name}) }}"
    before = model(text)
    write_own_operators(before)
    graph = rewritten(before, shorten_names).graph
    assert set(graph.initializers) == {"q_7_s", "q_7_z"}


def test_a_form_of_the_same_program_keeps_its_own_names() -> None:
    first = model(TEXT, weight_fc_weight_integers=np.array([1, 2, 3], np.int8),
                  weight_fc_weight_scale=np.float32(0.5), logit_scale=normal(3))  # fmt: skip
    second = first.clone()
    shorten_names(second)
    x = np.ones((2, 3), np.float32)
    for form in (first, second):
        given = ReferenceEvaluator(ir.to_proto(form)).run(None, {"x": x})
        assert given[0] == pytest.approx(np.maximum(x + np.array([0.5, 1, 1.5]), 0))
