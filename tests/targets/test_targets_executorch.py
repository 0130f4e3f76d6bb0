"""ExecuTorch's files: what they give, what is counted, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from xnnpack_networks import Attention, Gated, Joined, Turned, images, shared, step_of

import subbyte
from subbyte.errors import SubbyteError
from subbyte.numerics.qparams import QuantParams
from subbyte.placement.simulation import Simulation, simulate
from subbyte.targets import base, executorch, files

installed = pytest.mark.skipif(
    find_spec("executorch") is None, reason="executorch is not installed"
)
OTHERS = [(Gated, 4), (Turned, 8), (Attention, 8)]


@dataclass(frozen=True)
class Exported:
    """A model and its file."""

    simulation: Simulation
    path: Path
    notes: tuple[str, ...]


def exported(network: type[nn.Module], folder: Path, bits: int = 8) -> Exported:
    simulation, path = shared(network, bits), folder / "model.pte"
    return Exported(simulation, path, subbyte.export(simulation, path, images(2)))


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(Joined, tmp_path_factory.mktemp("joined"))


def differs_by_ties_alone(made: Exported) -> None:
    x = images(8, seed=2)
    (found,) = base.runtime("executorch").load(made.path, 1).run(x.numpy())
    with torch.no_grad():
        expected = made.simulation(x).numpy()
    assert found.shape == expected.shape
    off = np.abs(found - expected)
    assert off.max() < 2 * step_of(made.simulation)
    assert (off > 1e-3 * np.abs(expected).max()).mean() < 0.1


def test_where_it_is_not_installed_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    path = tmp_path / "model.pte"
    path.write_bytes(b"\0\0\0\0ET12")
    command = r"pip install 'subbyte\[executorch\]'"
    simulation = shared(Joined)
    with pytest.raises(SubbyteError, match=command):
        subbyte.export(simulation, tmp_path / "other.pte", images(2))
    assert not (tmp_path / "other.pte").exists()
    for function in (base.runtime("executorch").version, lambda: files.read_metadata(path)):
        with pytest.raises(SubbyteError, match=command):
            function()


def test_names_of_other_files_are_refused(tmp_path: Path) -> None:
    simulation = shared(Joined)
    with pytest.raises(SubbyteError, match=r"of a file of executorch: .* ends in \.pte"):
        subbyte.export(simulation, tmp_path / "model.onnx", images(2))
    with pytest.raises(SubbyteError, match=r"not the name of an ONNX file: .* ends in \.onnx"):
        subbyte.export(simulation, tmp_path / "model.pte", images(2), target="openvino")
    assert not list(tmp_path.iterdir())


@installed
@pytest.mark.slow
def test_a_file_gives_what_the_simulation_gives(joined: Exported) -> None:
    differs_by_ties_alone(joined)


@installed
@pytest.mark.slow
@pytest.mark.parametrize(("network", "bits"), OTHERS)
def test_other_networks_do_so_too(network: type[nn.Module], bits: int, tmp_path: Path) -> None:
    made = exported(network, tmp_path, bits)
    differs_by_ties_alone(made)
    layers = [layer for layer in made.simulation.placement.layers if layer.operation != "matmul"]
    in_float = 1 if network is Turned else 0
    session = base.runtime("executorch").load(made.path, 1)
    assert session.int8_ops() == len(layers) - in_float
    assert any("grouped" in note for note in made.notes) == bool(in_float)
    assert any("layer_norm" in note for note in made.notes) == (network is Attention)


@installed
@pytest.mark.slow
def test_one_delegate_runs_all_layers_with_int8_kernels(joined: Exported) -> None:
    session = base.runtime("executorch").load(joined.path, 1)
    assert session.int8_ops() == len(joined.simulation.placement.layers) == 5
    assert joined.notes == ("the file takes one image at a time",)


@installed
@pytest.mark.slow
def test_a_batch_runs_image_by_image(joined: Exported) -> None:
    session = base.runtime("executorch").load(joined.path, 1)
    x = images(3, seed=5).numpy()
    (together,) = session.run(x)
    alone = np.concatenate([session.run(x[i : i + 1])[0] for i in range(3)])
    np.testing.assert_array_equal(together, alone)
    for wrong in (x[:, :2], x[..., :-1], x[0]):
        with pytest.raises(SubbyteError, match=r"it takes \(1, 3, 12, 12\)"):
            session.run(wrong)
    with pytest.raises(SubbyteError, match="it takes"):
        session.run(x, x)


@installed
@pytest.mark.slow
def test_a_file_runs_on_after_another_one_on_other_threads(joined: Exported) -> None:
    x = images(2, seed=5).numpy()
    first = base.runtime("executorch").load(joined.path, 1)
    (before,) = first.run(x)
    second = base.runtime("executorch").load(joined.path, 2)
    np.testing.assert_array_equal(second.run(x)[0], before)
    np.testing.assert_array_equal(first.run(x)[0], before)
    np.testing.assert_array_equal(second.run(x)[0], before)


@installed
@pytest.mark.slow
def test_the_file_says_what_it_is(joined: Exported) -> None:
    metadata = files.read_metadata(joined.path)
    assert metadata["target"] == "executorch"
    assert metadata["recipe"] == joined.simulation.metadata["recipe"]
    assert metadata["executorch"] == executorch.version()
    assert files.output_names(joined.path) == ["output"]
    assert files.runtime_of(joined.path, None) == "executorch"


@installed
@pytest.mark.slow
def test_it_is_verified_beside_the_simulation(joined: Exported) -> None:
    found = subbyte.verify(joined.simulation, joined.path, [images(8, seed=2)])
    assert list(found.deployed) == ["executorch"]
    own = found.deployed["executorch"]
    assert own.agreement == 1.0
    assert own.int8_ops == own.int8_candidates == 5
    assert own.latency_ms > 0


@installed
@pytest.mark.slow
def test_a_broken_file_or_one_of_another_version_is_refused(
    joined: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = joined.path.read_bytes()
    path = tmp_path / "model.pte"
    faults = {
        content[:-100]: "is broken, or was written by another version",
        content[:4] + b"ET09" + content[8:]: "is broken, or was written by another version",
        content[:64] + bytes(len(content) - 64): "is broken, or was written by another version",
        b"not a program at all": "is not a file of ExecuTorch",
        b"": "is not a file of ExecuTorch",
    }
    capfd.readouterr()
    for broken, sentence in faults.items():
        path.write_bytes(broken)
        for read in (files.read_metadata, lambda path: base.runtime("executorch").load(path, 1)):
            with pytest.raises(SubbyteError, match=sentence):
                read(path)
    with pytest.raises(SubbyteError, match="there is no file"):
        files.read_metadata(tmp_path / "none.pte")
    assert capfd.readouterr().err == ""


@installed
@pytest.mark.slow
def test_runtimes_refuse_each_others_files(joined: Exported, tmp_path: Path) -> None:
    onnx = tmp_path / "model.onnx"
    subbyte.export(joined.simulation, onnx, images(2), target="onnxruntime")
    with pytest.raises(SubbyteError, match="is a file of executorch: onnxruntime cannot read it"):
        subbyte.evaluate(joined.path, [], runtime="onnxruntime")
    with pytest.raises(SubbyteError, match="export with target executorch"):
        subbyte.evaluate(onnx, [], runtime="executorch")


@installed
@pytest.mark.slow
def test_the_float_model_is_written_without_int8_kernels(tmp_path: Path) -> None:
    simulation = shared(Gated)
    plain = simulate(simulation.float_model, simulation.placement, QuantParams())
    notes = executorch.write(plain, tmp_path / "float.pte", (images(2),), True)
    assert not any("quantized" in note for note in notes)
    session = base.runtime("executorch").load(tmp_path / "float.pte", 1)
    assert session.int8_ops() == 0
    x = images(2, seed=2)
    with torch.no_grad():
        expected = simulation.float_model.raw(x)
    np.testing.assert_allclose(session.run(x.numpy())[0], expected, rtol=1e-4, atol=1e-4)
