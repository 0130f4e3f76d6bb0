"""The two runtimes have the same verbs; here is what holds for both."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from targets_helpers import RUNTIMES, Wide, deploy, digit_images, normal, run, seeded

from subbyte.errors import SubbyteError

both = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.mark.slow
@both
@pytest.mark.parametrize("bits", [8, 4])
def test_every_candidate_of_the_bundled_model_has_an_int8_kernel(
    bits: int, runtime: str, digits
) -> None:
    quantized, path = digits(weights=bits, activations=bits, first_last=None)
    candidates = [layer.name for layer in quantized.placement.layers if layer.integer]
    assert len(candidates) == 10  # nine convolutions and a linear layer: all it has
    assert RUNTIMES[runtime].load(path, 1).int8_ops() == len(candidates)


@both
def test_weights_alone_make_no_integer_layer(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantized = deploy(seeded(Wide), normal(4, 64), path, activations=None)
    assert not any(layer.integer for layer in quantized.placement.layers)
    assert RUNTIMES[runtime].load(path, 1).int8_ops() == 0


@pytest.mark.slow
@both
def test_more_threads_give_the_same(runtime: str, digits) -> None:
    _, path = digits(weights=8, activations=8, first_last=None)
    batch, _ = digit_images(4)
    session = RUNTIMES[runtime].load(path, 2)
    assert (session.path, session.threads) == (path, 2)
    first = session.run(batch.numpy())[0]
    np.testing.assert_allclose(first, run(runtime, path, batch)[0], rtol=0, atol=1e-4)
    kept = first.copy()
    session.run(2 * batch.numpy())
    np.testing.assert_array_equal(first, kept)  # not a view of the runtime's own memory


@both
def test_a_runtime_that_is_not_installed(
    runtime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    module = RUNTIMES[runtime]
    for use in (
        lambda: module.load(tmp_path / "model.onnx", 1),
        module.version,
    ):
        with pytest.raises(SubbyteError, match=rf"pip install 'subbyte\[{runtime}\]'"):
            use()


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ("y = Det(x)", "it has no operator Det"),
        ("a = Det(x) y = MatrixPower(a)", "it has no operator Det, MatrixPower"),
        (
            'y = Pad <mode = "wrap"> (x, pads)',
            r"operator Pad \(Unsupported padding mode: \[wrap\]\)",
        ),
        # The convolution behind it cannot be read either, which explains nothing.
        ('a = Pad <mode = "wrap"> (x, pads) y = Conv(a, x)', r"the operator Pad \(Unsupported"),
    ],
)
def test_openvino_names_the_operator_that_it_cannot_read(
    nodes: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    head = '<ir_version: 10, opset_import: ["" : 21]> graph (float[1, 3, 4, 4] x) => (float[] y)'
    made = onnx.parser.parse_model(f"{head} {{ {nodes} }}")
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, 1, 1] * 2), "pads"))
    onnx.save(made, path)
    with pytest.raises(SubbyteError, match=f"OpenVINO cannot load .*: .*{told}") as caught:
        RUNTIMES["openvino"].load(path, 1)
    text = str(caught.value)
    assert text.endswith("run the file in ONNX Runtime, or build the model without that operator")
    assert "\n" not in text


@both
def test_the_version_is_that_of_the_package(runtime: str) -> None:
    assert RUNTIMES[runtime].version() == sys.modules[runtime].__version__


@both
@pytest.mark.parametrize("content", [None, b"no model at all"], ids=["missing", "garbage"])
def test_a_file_that_cannot_be_loaded(content: bytes | None, runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SubbyteError, match=r"cannot load .*model\.onnx") as caught:
        RUNTIMES[runtime].load(path, 1)
    assert "\n" not in str(caught.value)


@both
def test_an_input_of_another_shape_is_refused(runtime: str, digits) -> None:
    _, path = digits(weights=8, activations=8, first_last=None)
    with pytest.raises(SubbyteError, match=r"on an input of shape \(2, 5, 8, 8\)") as caught:
        run(runtime, path, normal(2, 5, 8, 8))
    assert "\n" not in str(caught.value)


def test_openvino_says_why_it_cannot_load_a_file(tmp_path: Path) -> None:
    with pytest.raises(SubbyteError) as caught:
        RUNTIMES["openvino"].load(tmp_path / "model.onnx", 1)
    assert ".cpp" not in str(caught.value)
