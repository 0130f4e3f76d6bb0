from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, check, load

MODEL = """\
from dataclasses import dataclass
from torch import nn
from parts_of_it import head


@dataclass
class Size:
    width: int


def build(width=4, num_classes=3):
    size = Size(width)
    return nn.Sequential(nn.Conv2d(3, size.width, 1), nn.Flatten(), head(num_classes))


def tensor():
    return nn.Linear(2, 2).weight


def broken():
    raise KeyError("two\\nlines")


def late():
    import parts_of_it
    return parts_of_it.fails()


def quits():
    raise SystemExit(3)


NUMBER = 3
"""
PARTS = """\
from torch import nn


def head(classes):
    return nn.LazyLinear(classes)


def fails():
    return nn.Conv2d(3, 4, kernel_size="wide")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_model.py").write_text(MODEL)
    (tmp_path / "parts_of_it.py").write_text(PARTS)
    monkeypatch.delitem(sys.modules, "parts_of_it", raising=False)
    return tmp_path / "my_model.py"


def refusal(factory: str, **fields: Any) -> str:
    before = list(sys.path)
    with pytest.raises(SubbyteError) as caught:
        load(ModelConfig(factory=factory, **fields))
    assert sys.path == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def line(text: str, source: str) -> int:
    return source[: source.index(text)].count("\n") + 1


def test_a_function_in_a_file_is_called_with_its_arguments(file: Path) -> None:
    before = list(sys.path)
    config = ModelConfig(factory=f"{file}:build", arguments={"width": 6}, num_classes=5)
    spec = load(config)
    assert sys.path == before
    assert spec.name == "my_model.py:build"
    assert not spec.module.training
    assert spec.module(torch.rand(2, 3, 4, 4)).shape == (2, 5)
    assert spec.module[0].out_channels == 6
    assert (spec.preprocessing, spec.classes) == (None, None)
    again = load(config).module[0].weight
    assert torch.equal(again, spec.module[0].weight)


def test_a_relative_file_is_relative_to_the_current_directory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    assert load(ModelConfig(factory="my_model.py:build")).name == "my_model.py:build"


def test_a_function_in_a_module_of_the_current_directory(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = file.parent / "my_package_of_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(MODEL)
    monkeypatch.chdir(file.parent)
    spec = load(ModelConfig(factory="my_package_of_models.nets:build"))
    assert spec.name == "my_package_of_models.nets:build"
    assert "function of 'my_package_of_models.nets' 'bild': did you mean 'build'" in refusal(
        "my_package_of_models.nets:bild"
    )


def test_an_installed_package_and_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.eye(2), "bias": torch.ones(2)}, path)
    arguments = {"in_features": 2, "out_features": 2}
    spec = load(ModelConfig(factory="torch.nn:Linear", arguments=arguments, checkpoint=path))
    assert isinstance(spec.module, nn.Linear)
    assert torch.equal(spec.module.weight, torch.eye(2))


def test_double_precision_becomes_float(file: Path) -> None:
    file.write_text("from torch import nn\ndef build():\n    return nn.Linear(2, 2).double()\n")
    assert load(ModelConfig(factory=f"{file}:build")).module.weight.dtype == torch.float32


def test_the_nearest_function_is_named(file: Path) -> None:
    assert "'biuld': did you mean 'build'" in refusal(f"{file}:biuld")
    assert "'NUMBER' in" in refusal(f"{file}:NUMBER")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nothing.py' does not exist" in refusal(f"{tmp_path / 'nothing.py'}:build")
    assert "there is no nothing_of_the_kind" in refusal("nothing_of_the_kind.nets:build")
    assert "there is no torch.nothing_of_the_kind" in refusal("torch.nothing_of_the_kind:build")
    assert "names no function" in refusal("my_model.py")
    assert "names no function" in refusal("my_model.py:")
    assert "names no function" in refusal(":build")


def test_another_kind_of_value_is_refused(file: Path) -> None:
    assert "returned a Parameter, not a torch.nn.Module" in refusal(f"{file}:tensor")


def test_an_error_in_the_users_function_names_its_line(file: Path) -> None:
    message = refusal(f"{file}:broken")
    assert "KeyError" in message
    assert f"line {line('raise KeyError', MODEL)} of my_model.py" in message
    # Raised in torch, but it is the user's line that helps.
    message = refusal(f"{file}:late")
    assert f"line {line('return nn.Conv2d', PARTS)} of parts_of_it.py" in message
    assert "SystemExit" in refusal(f"{file}:quits")


def test_wrong_arguments_are_reported(file: Path) -> None:
    message = refusal(f"{file}:build", arguments={"height": 3})
    assert "TypeError" in message
    assert "'height'" in message


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\ny = = 2\n", "line 2 of my_model.py: SyntaxError"),
        ("import nothing_of_the_kind\n", "line 1 of my_model.py: ModuleNotFoundError"),
        ("\n\n1 / 0\n", "line 3 of my_model.py: ZeroDivisionError"),
    ],
)
def test_a_file_that_does_not_import_names_its_line(file: Path, code: str, says: str) -> None:
    file.write_text(code)
    assert says in refusal(f"{file}:build")
    assert "_subbyte_factory_my_model" not in sys.modules


def test_a_file_without_a_function_is_told_which_it_has(tmp_path: Path) -> None:
    """By its text alone: it does not run."""
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit\nclass Net: ...\ndef build(): ...\ndef _own(): ...\n")
    for config in (ModelConfig(name=str(path)), ModelConfig(factory=f"{path}:")):
        with pytest.raises(SubbyteError, match=r"write .*mine\.py:FUNCTION.*it has Net, build$"):
            check(config)
    path.write_text("def build(:\n")
    with pytest.raises(SubbyteError, match=r"mine\.py is not valid Python: .*line 1"):
        check(ModelConfig(name=str(path)))
    with pytest.raises(SubbyteError, match=r"gone\.py' does not exist"):
        check(ModelConfig(name="gone.py"))
