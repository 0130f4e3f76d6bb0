"""A model as an experiment or a command asks for it, with what is said of its outputs."""

from __future__ import annotations

from dataclasses import replace

from subbyte import detection, models
from subbyte.data.preprocessing import Preprocessing
from subbyte.detectors.raw_outputs import raw_detector
from subbyte.models import ModelConfig, ModelSpec


def load_model(config: ModelConfig, preprocessing: Preprocessing | None = None) -> ModelSpec:
    """The model that `config` asks for; a raw network as the detector that its outputs make of it.

    Args:
        config: What was asked for.
        preprocessing: How images become the network's input, as `data.preprocessing`.

    Raises:
        SubbyteError: The model cannot be loaded, or a key has no meaning for a detector.
    """
    return with_outputs(models.load(config), config, preprocessing)


def with_outputs(
    spec: ModelSpec, config: ModelConfig, preprocessing: Preprocessing | None
) -> ModelSpec:
    """A raw network as the detector that its `outputs` make of it; any other model as it is.

    Args:
        spec: The model.
        config: What was asked for; its outputs stand over those that the model brings.
        preprocessing: How images become the network's input; its keys stand over those that the
            model brings.
    """
    outputs = config.outputs or spec.outputs
    if outputs is None:
        return spec
    own = spec.preprocessing if isinstance(spec.preprocessing, detection.Preprocessing) else None
    module = raw_detector(spec.module, outputs, _merged(own, preprocessing))
    return replace(spec, module=module, task="detection", preprocessing=None, outputs=outputs)


def _merged(
    own: detection.Preprocessing | None, given: Preprocessing | None
) -> Preprocessing | None:
    if own is None or given is None:
        return given or own
    keys = given.model_dump(exclude_unset=True)
    kept = own.model_dump(exclude_unset=True)
    if keys.keys() & {"letterbox", "resize"}:  # one of them takes the other's place
        kept = {key: value for key, value in kept.items() if key not in ("letterbox", "resize")}
        if "resize" in keys:
            kept = {key: value for key, value in kept.items() if key not in ("fill", "place")}
    return detection.Preprocessing(**{**kept, **keys})
