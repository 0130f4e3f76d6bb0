"""How deployed models are measured."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from targets_helpers import Pooled, images, seeded

import subbyte
from processor import FITTING
from subbyte import targets
from subbyte.errors import SubbyteError
from subbyte.graph.flow import WHOLE
from subbyte.targets import base as verify
from subbyte.targets import files, names, onnxruntime, openvino
from subbyte.targets.onnx.export import write_files
from subbyte.utils.progress import Silent


@pytest.mark.skipif(sys.platform != "linux", reason="counts the kernel's pages")
def test_large_tensors_take_the_memory_of_those_before() -> None:
    import resource  # not on Windows

    faults = []

    def run(inputs: torch.Tensor) -> np.ndarray:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(50 * 2**20)  # 200 MB
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return inputs.numpy()

    batches = [{"inputs": torch.zeros(1)}] * 8
    verify.collected({"large": run}, batches, Silent(), "evaluating")
    assert faults[-1] < faults[0] / 10


class Recorded:
    """A session that notes what it runs, and takes so many seconds for it."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.inputs = seconds, []

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        time.sleep(self.seconds[len(self.inputs) % len(self.seconds)])
        self.inputs.append(inputs)
        return [np.zeros(1), np.ones(1)]


def test_every_run_sees_the_same_images_which_are_decoded_once() -> None:
    walked = []

    def batches():
        for size in (3, 2):
            images = torch.arange(size * 4.0).reshape(size, 4) + 10 * size
            walked.append(images)
            yield {"inputs": images, "targets": torch.arange(size)}

    runs = {"plus": lambda x: (x + 1).numpy(), "minus": lambda x: (x - 1).numpy()}
    outputs, targets = verify.collected(runs, batches(), Silent(), "evaluating")
    assert len(walked) == 2
    np.testing.assert_array_equal(np.concatenate(outputs["plus"]), torch.cat(walked).numpy() + 1)
    np.testing.assert_array_equal(np.concatenate(outputs["minus"]), torch.cat(walked).numpy() - 1)
    assert torch.cat(targets).tolist() == [0, 1, 2, 0, 1]


def test_a_simulation_and_a_session_are_run_alike() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    simulated = verify.simulated(torch.nn.Flatten().double(), "cpu")(x)
    assert simulated.dtype == np.float32
    session = Recorded([0.0])
    assert verify.deployed(session)(x.detach()).tolist() == [0.0]  # its first output
    np.testing.assert_array_equal(session.inputs[0][0], x.detach().numpy())


def test_latency_is_the_median_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "RUNS", 9)
    slow, usual = 0.05, 0.002
    session = Recorded([slow] * verify.WARM_UP + [usual] * 7 + [slow] * 2)
    latency = verify.latency_ms(session, np.zeros(1))
    assert len(session.inputs) == verify.WARM_UP + 9
    assert 1000 * usual <= latency < 1000 * slow


def test_latency_of_a_slow_model_is_measured_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify, "SECONDS", 0.02)
    session = Recorded([0.0] * verify.WARM_UP + [0.03])
    assert verify.latency_ms(session, np.zeros(1)) >= 30
    assert len(session.inputs) == verify.WARM_UP + 1


REFERENCE = """
from onnx.reference import ReferenceEvaluator

class Session:
    def __init__(self, path):
        self.evaluator = ReferenceEvaluator(str(path))

    def run(self, *inputs):
        return self.evaluator.run(None, dict(zip(self.evaluator.input_names, inputs)))

    def int8_ops(self):
        return 0

def load(path, threads):
    return Session(path)

def version():
    return "1"
"""


def test_the_runtimes_are_the_files_there_are() -> None:
    assert names() == ("executorch", "onnxruntime", "openvino", "qonnx", "tensorrt")
    with pytest.raises(SubbyteError, match="openvino"):
        verify.runtime("openvin")
    for name in ("base", "portable"):
        with pytest.raises(SubbyteError):
            verify.runtime(name)


def test_a_runtime_is_there_by_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "reference.py").write_text(REFERENCE)
    monkeypatch.setattr(targets, "__path__", [*targets.__path__, str(tmp_path)])
    monkeypatch.setattr(targets, "reference", None, raising=False)
    monkeypatch.setitem(sys.modules, "subbyte.targets.reference", None)
    del sys.modules["subbyte.targets.reference"]  # which monkeypatch will leave out again
    known = ("executorch", "onnxruntime", "openvino", "qonnx", "reference", "tensorrt")
    assert names() == known
    # It runs the file for all, in which there is all that ONNX Runtime needs.
    in_float = {hint.name for hint in targets.hints() if not hint.quantized_results}
    assert in_float == {"openvino", "tensorrt"}
    quantized = subbyte.quantize(seeded(Pooled), [images()], subbyte.Recipe(**FITTING))
    files = write_files(quantized, tmp_path, (images(2),), ["reference"])
    assert files.of_runtime == {"reference": tmp_path / "model.onnx"}
    runtime = verify.runtime("reference")
    (found,) = runtime.load(files.path, 1).run(images(5).numpy())
    np.testing.assert_allclose(found, quantized(images(5)), rtol=0, atol=1e-5)


def test_a_runtime_by_its_name() -> None:
    assert verify.runtime("onnxruntime") is onnxruntime
    assert verify.runtime("openvino") is openvino


def test_boxes_are_refused_where_files_cannot_hold_them() -> None:
    detector = SimpleNamespace(region_names=("backbone", "head"))
    files.check_boxes(("onnxruntime", "openvino"), detector, True)
    files.check_boxes(("executorch",), detector, False)
    files.check_boxes(("executorch",), SimpleNamespace(region_names=WHOLE), True)
    with pytest.raises(SubbyteError, match=r"executorch.*export\.postprocess: false"):
        files.check_boxes(("onnxruntime", "executorch"), detector, True)
