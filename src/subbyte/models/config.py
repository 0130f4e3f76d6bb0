"""The `model` part of an experiment: which network, and where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from subbyte.detection import Outputs
from subbyte.errors import SubbyteError
from subbyte.utils.validation import HomePath

TIMM = "timm/"  # before the names of timm's models
LIBREYOLO = "libreyolo/"  # likewise
TRANSFORMERS = "transformers/"  # before a folder, or the name of a model in the hub's cache
BUNDLED = ("digits", "digit-scenes")  # models that come with their weights


class ModelConfig(BaseModel):
    """A network by `name`, the user's own by `factory`, or an ONNX file; exactly one of them.

    Attributes:
        name: Of a model that Subbyte knows.
        weights: Name of published weights (torchvision's "IMAGENET1K_V1", timm's "ra2_in1k", which
            may stand in the name instead: "timm/resnet18d.ra2_in1k").
        checkpoint: A local file with a state dict.
        checkpoint_key: Under which of that file's keys the weights are, with dots between keys, as
            "ema.module"; `None`: where training scripts have the last ones.
        factory: "my_model.py:build" or "package.module:build", a function that returns an
            `nn.Module`.
        onnx: An ONNX file, in float, with its weights.
        arguments: What the factory is called with.
        num_classes: How many outputs the model has, where neither the weights nor the checkpoint
            decide it.
        outputs: Of a detector's raw network: what it gives.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    weights: str | None = None
    checkpoint: HomePath | None = None
    checkpoint_key: Annotated[str, Field(min_length=1)] | None = None
    factory: str | None = None
    onnx: HomePath | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    num_classes: Annotated[int, Field(ge=1)] | None = None
    outputs: Outputs | None = None

    @field_validator("outputs", mode="before")
    @classmethod
    def _read_outputs(cls, given: Any) -> Any:
        """One sentence for what is wrong in it, as for the model's other keys."""
        if not isinstance(given, dict):
            return given
        try:
            return Outputs(**{str(key): value for key, value in given.items()})
        except SubbyteError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _weights_in_name(cls, given: Any) -> Any:
        """A tag in timm's name stands for its weights, unless a checkpoint brings them."""
        if not isinstance(given, dict) or given.get("checkpoint") or given.get("weights"):
            return given
        tag = _tag(given.get("name"))
        return {**given, "weights": tag} if tag else given

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        problem = self._source_problem() or self._name_problem()
        if problem:
            raise ValueError(problem)
        return self

    def _source_problem(self) -> str | None:
        given = [key for key in ("name", "factory", "onnx") if getattr(self, key) is not None]
        if not given:
            return (
                "give name (a known model), factory (a function that builds yours) or onnx (a file)"
            )
        if len(given) > 1:
            return f"{' and '.join(given)} exclude each other: give one of them"
        if self.onnx is not None and self._has_more():
            return "an ONNX file has its weights and classes: leave all but onnx out"
        if self.factory is not None and self.weights is not None:
            return "weights are for models by name: give the factory's weights as checkpoint"
        if self.weights is not None and self.checkpoint is not None:
            return "weights and checkpoint exclude each other: give one of them"
        if self.checkpoint_key is not None and self.checkpoint is None:
            return "checkpoint_key is of a checkpoint: give that too, or leave the key out"
        if self.factory is None and self.arguments:
            return "arguments are for a factory: leave them out, or give factory instead of name"
        if self.num_classes is not None and "num_classes" in self.arguments:
            return "num_classes is given twice: leave it out, or take it out of arguments"
        return None

    def _has_more(self) -> bool:
        """Whether anything says of what weights, or of what size, a model is."""
        sizes = self.arguments or self.num_classes is not None
        return bool(self.weights is not None or self.checkpoint is not None or sizes)

    def _name_problem(self) -> str | None:
        if self.weights and _tag(self.name) not in (None, self.weights):
            return f"{self.name} names weights already: leave weights out, or the name's ending"
        if self.name in BUNDLED and self.weights is not None:
            return f"{self.name} comes with its weights: leave weights out, or give a checkpoint"
        if (self.name or "").startswith(TRANSFORMERS) and (self.weights or self.num_classes):
            return (
                f"{self.name} has its weights and classes in its folder: leave weights and "
                "num_classes out"
            )
        if self.name in BUNDLED and self.num_classes is not None:
            return f"{self.name} always has 10 classes: leave num_classes out"
        if (self.name or "").startswith("cifar_resnet") and self.weights is not None:
            return f"{self.name} has no weights by name: give its published file as checkpoint"
        return None


def _tag(name: object) -> str | None:
    """Which of its weights a name of timm's ends in: "ra2_in1k" in "timm/resnet18d.ra2_in1k"."""
    if not isinstance(name, str) or not name.startswith(TIMM):
        return None
    return name.partition(".")[2] or None


def missing_checkpoint(path: Path, what: str = "does not exist") -> SubbyteError:
    """The error for a checkpoint that cannot be a file of weights, and `what` it is instead."""
    return SubbyteError(f"checkpoint '{path}' {what}: name a file that holds a state dict")
