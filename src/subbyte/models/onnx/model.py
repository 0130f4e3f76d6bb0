"""An ONNX file as the model of an experiment."""

from __future__ import annotations

from pathlib import Path

from subbyte.errors import SubbyteError
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec

SUFFIX = ".onnx"


def is_onnx(name: object) -> bool:
    """Whether a model is named by an ONNX file."""
    return isinstance(name, str | Path) and str(name).endswith(SUFFIX)


def check(path: Path) -> None:
    """Refuse a file that does not exist."""
    if not path.is_file():
        raise SubbyteError(f"there is no file {path}: name an ONNX file")


def load(config: ModelConfig) -> ModelSpec:
    """The module of a file: a classifier, if it gives one matrix, else a detector.

    Raises:
        SubbyteError: As `load_onnx`.
    """
    from subbyte.models.onnx.load import load_onnx

    path = Path(str(config.onnx))
    module = load_onnx(path)
    matrix = module.output_ranks == (2,)
    task = "classification" if matrix else "detection"
    return ModelSpec(path.name, module, task, preprocessing=None, classes=None)
