"""The file itself: what goes along in it, and that it is there whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from targets_helpers import (
    RUNTIMES,
    OneConv,
    Pooled,
    TwoConvs,
    deploy,
    differences,
    images,
    normal,
    placed_for,
    run,
    seeded,
)
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer

import small_detectors
import subbyte
from subbyte.api import capture, unquantized
from subbyte.errors import SubbyteError
from subbyte.targets.onnx.export import (
    export_float,
    output_names,
    read_metadata,
    write_files,
)


@dataclass
class Answer:
    """What a user's model may return."""

    logits: Tensor
    classes: int


class Dataclass(OneConv):
    def forward(self, x: Tensor) -> Answer:
        return Answer(self.conv(x), 4)


class Numbers(OneConv):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"scale": 2.5, "logits": self.conv(x), "nothing": None, "classes": 4}


class Bessel(OneConv):
    """Has an operator that ONNX lacks."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(super().forward(x))


class NamedLikeTheFile(nn.Module):
    """Has parameters of the names that the file gives to its input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.output, self.input = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.output + self.input


@pytest.mark.slow
def test_recipe_and_version_come_back(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    recipe = subbyte.Recipe(
        weights=3,
        activations=5,
        ranges={"weights": "minmax", "activations": {"name": "percentile", "percentile": 99.0}},
        overrides={"first": {"weights": 6}},
        seed=7,
    )
    quantized = subbyte.quantize(seeded(TwoConvs), [images()], recipe)
    quantized.metadata["classes"] = ["cat", "dög"]
    subbyte.export(quantized, path, images(2))
    metadata = read_metadata(path)
    assert metadata["version"] == subbyte.__version__
    assert metadata["classes"] == ["cat", "dög"]
    read = subbyte.Recipe(**metadata["recipe"])
    assert read == recipe
    again = subbyte.quantize(seeded(TwoConvs), [images()], read)
    assert subbyte.layers(again) == subbyte.layers(quantized)


def test_the_file_holds_nothing_of_the_users_source(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    deploy(seeded(TwoConvs), images(), path)
    assert Path(__file__).name.encode() not in path.read_bytes()
    assert b"targets_helpers" not in path.read_bytes()


def test_a_float_export_quantizes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    model = seeded(TwoConvs)
    export_float(unquantized(capture(model, (images(),))), path, (images(1),))
    assert {node.op_type for node in onnx.load(str(path)).graph.node} == {"Conv", "Relu"}
    for name, runtime in RUNTIMES.items():
        assert runtime.load(path, 1).int8_ops() == 0
        torch.testing.assert_close(
            torch.from_numpy(run(name, path, images())[0]), model(images()), rtol=0, atol=1e-6
        )


def test_a_float_export_of_a_quantized_model_is_the_model_before(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    quantized = subbyte.quantize(seeded(TwoConvs), [images()], subbyte.Recipe(weights=2))
    export_float(quantized, path, (images(2),))
    assert {node.op_type for node in onnx.load(str(path)).graph.node} == {"Conv", "Relu"}


@pytest.mark.parametrize("failing", ["torch.onnx.export", "onnx.save"])
def test_a_failure_leaves_no_file_and_an_older_one_as_it_was(
    failing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quantized = subbyte.quantize(seeded(OneConv), [images()])
    older = tmp_path / "older.onnx"
    older.write_bytes(b"as it was")

    def fail(*args: Any, **kwargs: Any) -> None:
        if failing == "onnx.save":
            Path(args[1]).write_bytes(b"half of")
        raise RuntimeError("no more space\nsecond line")

    monkeypatch.setattr(failing, fail)
    for path in (tmp_path / "new.onnx", older):
        with pytest.raises((SubbyteError, RuntimeError), match="no more space"):
            subbyte.export(quantized, path, images(2))
    assert list(tmp_path.iterdir()) == [older]
    assert older.read_bytes() == b"as it was"


def test_what_the_exporter_says_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such operator\nsecond line")

    quantized = subbyte.quantize(seeded(OneConv), [images()])
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(SubbyteError, match=r"cannot be written as ONNX: no such operator$"):
        subbyte.export(quantized, tmp_path / "model.onnx", images(2))


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    quantized = subbyte.quantize(seeded(Bessel), [images()])
    with pytest.raises(SubbyteError, match="bessel_j0") as caught:
        subbyte.export(quantized, tmp_path / "model.onnx", images(2))
    assert str(caught.value).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["file/model.onnx", "."], ids=["under a file", "a folder"])
def test_a_path_that_cannot_be_written(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    quantized = subbyte.quantize(seeded(OneConv), [images()])
    with pytest.raises(SubbyteError, match="name a f"):
        subbyte.export(quantized, tmp_path / path, images(2))


def test_names_of_parameters_do_not_meet_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    quantized = deploy(seeded(NamedLikeTheFile), images(), path)
    for runtime in RUNTIMES:
        assert max(differences(runtime, path, quantized, images())) < 1e-6


def test_metadata_of_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SubbyteError, match=r"there is no file .*none\.onnx"):
        read_metadata(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"no protocol buffer at all", b""])
def test_metadata_of_a_file_that_is_not_onnx(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "garbage.onnx"
    path.write_bytes(content)
    with pytest.raises(SubbyteError, match="is not an ONNX file"):
        read_metadata(path)


def test_metadata_of_a_file_from_elsewhere_is_empty(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
    model.metadata_props.add(key="author", value="someone")
    onnx.save(model, str(tmp_path / "other.onnx"))
    assert read_metadata(tmp_path / "other.onnx") == {}


@pytest.mark.slow
def test_export_leaves_the_quantized_model_as_it_is(tmp_path: Path) -> None:
    # Whose windows are in the batch: nothing may be learned of its size.
    torch.manual_seed(0)
    model = SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=3)
    quantized = subbyte.quantize(model, [normal(4, 3, 32, 32)], subbyte.Recipe(method="range"))
    batches = [normal(size, 3, 32, 32, seed=size) for size in (1, 3, 4)]
    before, state = [quantized(batch) for batch in batches], _copied(quantized)
    for target in (None, *RUNTIMES):
        subbyte.export(quantized, tmp_path / "model.onnx", batches[0], target=target)
    for batch, outputs in zip(batches, before, strict=True):
        torch.testing.assert_close(quantized(batch), outputs, rtol=0, atol=0)
    assert state.keys() == quantized.state_dict().keys()
    assert all(torch.equal(state[name], x) for name, x in quantized.state_dict().items())


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "bits", "own"),
    [
        (Pooled, 8, []),
        (Pooled, 4, ["openvino"]),
        (TwoConvs, 8, ["onnxruntime"]),  # whose last convolution is a product there
    ],
)
def test_all_files_are_made_of_one_export(
    make: type[nn.Module],
    bits: int,
    own: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    recipe = subbyte.Recipe(weights=bits, activations=bits, first_last=None)
    quantized = subbyte.quantize(seeded(make), [images()], recipe)
    exported, export = [], torch.onnx.export

    def counting(*args: Any, **kwargs: Any) -> Any:
        exported.append(args)
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", counting)
    files = write_files(quantized, tmp_path, (images(2),), RUNTIMES)
    assert len(exported) == 1
    assert files.path == tmp_path / "model.onnx"
    assert not files.raw
    for name in RUNTIMES:
        path = tmp_path / (f"model.{name}.onnx" if name in own else "model.onnx")
        assert files.of_runtime[name] == path
        alone = tmp_path / "alone.onnx"
        subbyte.export(quantized, alone, images(2), target=name if name in own else None)
        assert path.read_bytes() == alone.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2 + len(own)


@pytest.mark.slow
def test_a_detectors_files_and_those_of_its_raw_outputs(tmp_path: Path) -> None:
    model, batch = small_detectors.detector("ssd"), small_detectors.pictures(2, (64, 64), 0)
    quantized = subbyte.quantize(model, [batch], subbyte.Recipe(method="range"))
    (tmp_path / "raw").mkdir()
    files = write_files(quantized, tmp_path, (batch,), ["onnxruntime"], raw_folder=tmp_path / "raw")
    raw = files.raw["onnxruntime"]
    assert raw == tmp_path / "raw" / files.of_runtime["onnxruntime"].name
    assert output_names(files.of_runtime["onnxruntime"]) == ["boxes", "scores", "labels", "count"]
    assert output_names(raw) == ["bbox_regression", "cls_logits"]
    assert read_metadata(raw) == read_metadata(files.of_runtime["onnxruntime"])
    found = RUNTIMES["onnxruntime"].load(raw, 1).run(torch.stack(batch).numpy())
    simulated = placed_for(quantized, "onnxruntime").raw(batch)
    assert sorted(x.shape for x in found) == sorted(tuple(x.shape) for x in simulated)


def test_the_float_model_by_the_same_way(tmp_path: Path) -> None:
    model = unquantized(capture(seeded(TwoConvs), (images(),)))
    files = write_files(model, tmp_path, (images(2),), RUNTIMES)
    assert set(files.of_runtime.values()) == {files.path}
    assert {node.op_type for node in onnx.load(str(files.path)).graph.node} == {"Conv", "Relu"}


@pytest.mark.slow
def test_the_exporter_reads_its_operators_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = subbyte.quantize(seeded(TwoConvs), [images()], subbyte.Recipe())
    subbyte.export(model, tmp_path / "first.onnx", images(2))

    def read(_: object) -> None:
        raise AssertionError("the source of an operator is read again")

    monkeypatch.setattr("onnxscript._internal.ast_utils.get_src_and_ast", read)
    subbyte.export(model, tmp_path / "second.onnx", images(2))
    assert (tmp_path / "second.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("make", [Dataclass, Numbers])
def test_a_file_gives_the_tensors_among_the_outputs(make: type[nn.Module], tmp_path: Path) -> None:
    path, batch = tmp_path / "model.onnx", images()
    quantized = subbyte.quantize(seeded(make), [batch])
    subbyte.export(quantized, path, batch)
    found = quantized(batch)
    logits, classes = (
        (found["logits"], found["classes"])
        if isinstance(found, dict)
        else (found.logits, found.classes)
    )
    assert classes == 4
    for runtime in RUNTIMES:
        (given,) = run(runtime, path, batch)
        np.testing.assert_allclose(given, logits, rtol=0, atol=1e-5)
