"""The file itself: what goes along in it, and that it is there whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from targets_helpers import RUNTIMES, OneConv, TwoConvs, deploy, differences, images, run, seeded
from torch import Tensor, nn

import subbyte
from subbyte.api import prepare
from subbyte.errors import SubbyteError
from subbyte.targets.onnx.export import export_float, read_metadata


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
    quantized.facts.metadata["classes"] = ["cat", "dög"]
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


def test_a_float_export_has_no_grids(tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    model = seeded(TwoConvs)
    captured = prepare(model, (images(),), subbyte.Recipe(weights=None, activations=None))
    export_float(captured, path, (images(1),))
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


def test_what_the_exporter_says_is_told_in_one_line(
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
    with pytest.raises(SubbyteError, match="is no ONNX file"):
        read_metadata(path)


def test_metadata_of_a_file_from_elsewhere_is_empty(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y]))
    model.metadata_props.add(key="author", value="someone")
    onnx.save(model, str(tmp_path / "other.onnx"))
    assert read_metadata(tmp_path / "other.onnx") == {}


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
