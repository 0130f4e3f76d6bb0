"""`--outputs` of a command line: what a detector's raw network gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from subbyte.app.experiment import read_setting
from subbyte.data.preprocessing import Preprocessing
from subbyte.detection import Outputs, preprocessing_of
from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig
from subbyte.utils.tagged_yaml import load_tagged

SUFFIXES = (".yaml", ".yml")


def with_outputs(
    config: ModelConfig, text: str | None, preprocessing: Preprocessing | None
) -> ModelConfig:
    """The model with what `--outputs` says of it.

    Args:
        config: The model.
        text: Keys of `model.outputs` as YAML, or the name of a YAML file with them, to whose folder
            paths in it are relative; `None`: nothing is said.
        preprocessing: What `--preprocessing` says, which is a detector's then.

    Raises:
        SubbyteError: The text is no mapping, or a key does not exist or has a wrong value.
    """
    if text is None:
        return config
    fields = _fields(text)
    try:
        preprocessing_of(preprocessing)
    except SubbyteError as error:
        raise SubbyteError(f"preprocessing: {error}") from None
    return config.model_copy(update={"outputs": _outputs(fields)})


def _outputs(fields: dict[Any, Any]) -> Outputs:
    if "form" not in fields:
        raise SubbyteError(
            "outputs has no form: give decoded, levels, queries, detections or FILE.py:FUNCTION"
        )
    try:
        return Outputs(**{str(key): value for key, value in fields.items()})
    except SubbyteError as error:
        raise SubbyteError(f"outputs: {error}") from None


def _fields(text: str) -> dict[Any, Any]:
    path = Path(text).expanduser()
    if path.suffix not in SUFFIXES:
        fields = read_setting(f"outputs={text}")[1]
        if isinstance(fields, dict):
            return fields
        raise SubbyteError(
            f"outputs is {text}: give a mapping, as '{{form: decoded}}', or a YAML file"
        )
    try:
        fields = load_tagged(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubbyteError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SubbyteError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise SubbyteError(f"{path} holds no mapping: give keys of outputs, as form: decoded")
    file, colon, function = str(fields.get("form", "")).rpartition(":")
    if file.endswith(".py") and (path.parent / file).exists():
        fields["form"] = f"{path.parent / file}{colon}{function}"
    return fields
