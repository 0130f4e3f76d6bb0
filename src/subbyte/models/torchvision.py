"""torchvision's classification models, with published weights, a checkpoint's, or random ones."""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError, unknown
from subbyte.models.checkpoint import load_state, read_checkpoint
from subbyte.models.config import ModelConfig
from subbyte.models.spec import ModelSpec

IMAGENET_CLASSES = 1000

# Auxiliary heads serve training only; leaving them out keeps eval mode free of them.
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
_WITHOUT_AUXILIARY = {"aux_logits": False, "transform_input": True, "init_weights": False}
_OPTIONS: dict[str, dict[str, Any]] = {
    # `transform_input` is not part of a state dict. The published weights need it, and so does
    # what was fine-tuned from them; a network trained without it has to come by factory.
    "googlenet": _WITHOUT_AUXILIARY,
    "inception_v3": _WITHOUT_AUXILIARY,
}
# Names in published files (DenseNet's, ViT's) that are older than the modules of today.
_RENAMED = (
    (re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(\.encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)


def load(config: ModelConfig) -> ModelSpec:
    """A torchvision model by name, without auxiliary heads.

    With a checkpoint, the number of classes is the checkpoint's; preprocessing is that of the
    published weights whose file name the checkpoint has, else of torchvision's default weights.
    """
    name = str(config.name)
    entry = entry_of(name, config)
    preprocessing = None if entry is None else _preprocessing(entry)
    if config.weights is None and config.checkpoint is None:
        module = _architecture(name, config.num_classes or IMAGENET_CLASSES)
        return ModelSpec(name, module, "classification", preprocessing, classes=None)
    state, source = state_of(entry, config)
    module = _fitting(name, config.num_classes, state)
    load_state(module, state, source)
    known = () if entry is None else tuple(entry.meta.get("categories") or ())
    classes = known if len(known) == _outputs(_head(module)[1]) else None
    size = getattr(module, "image_size", None)
    if preprocessing is not None and isinstance(size, int) and size != preprocessing.crop:
        # A vision transformer takes images of one size only.
        preprocessing = preprocessing.model_copy(update={"resize": size, "crop": size})
    return ModelSpec(name, module, "classification", preprocessing, classes)


def entry_of(name: str, config: ModelConfig) -> Any | None:
    """Entry of the published weights that `config` names, else of those that come closest."""
    entries = torchvision.models.get_model_weights(name)
    members: dict[str, Any] = dict(entries.__members__)
    if config.weights is not None:
        wanted = config.weights.removeprefix(f"{entries.__name__}.")
        if wanted not in members:
            raise unknown(f"weights of {name}", config.weights, members)
        categories = len(members[wanted].meta.get("categories") or ())
        if config.num_classes is not None and config.num_classes != categories:
            raise SubbyteError(
                f"{name}'s weights {wanted} have {categories} classes, not {config.num_classes}: "
                "leave num_classes out, or give a checkpoint instead of weights"
            )
        return members[wanted]
    if config.checkpoint is not None:
        for entry in members.values():
            if file_name(entry) == config.checkpoint.name:
                return entry
    return members.get("DEFAULT")


def state_of(entry: Any, config: ModelConfig) -> tuple[OrderedDict[str, Tensor], Path]:
    """The state dict as the modules of today name it, and the file that it came from."""
    if config.checkpoint is None:
        source = Path(torch.hub.get_dir()) / "checkpoints" / file_name(entry)
        state = _published(entry, source, str(config.name))
    else:
        source = config.checkpoint
        state = read_checkpoint(source, key=config.checkpoint_key)
    kept = OrderedDict(
        (_renamed(key), tensor) for key, tensor in state.items() if not key.startswith(_AUXILIARY)
    )
    kept.__dict__.update(state.__dict__)
    return kept, source


def _published(entry: Any, file: Path, name: str) -> OrderedDict[str, Tensor]:
    """Published weights through torch.hub, which looks into its folder before it downloads."""
    if not file.exists():
        try:
            # torch.hub announces a download on stdout, which belongs to our caller; its bar,
            # on stderr, says enough, and nothing where there is no network.
            with contextlib.redirect_stdout(io.StringIO()):
                entry.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except Exception as error:
            if not file.exists():
                raise SubbyteError(
                    f"weights {entry.name} of {name} could not be downloaded "
                    f"({type(error).__name__}): put {entry.url} into {file.parent} "
                    f"as {file.name}, or give such a file as model.checkpoint"
                ) from None
    return read_checkpoint(file)


def _fitting(name: str, num_classes: int | None, state: dict[str, Tensor]) -> nn.Module:
    """The architecture with as many classes, and for as large an image, as `state` has."""
    options = _image_size(state) if name.startswith("vit_") else {}
    module = _architecture(name, num_classes or IMAGENET_CLASSES, **options)
    weight = state.get(f"{_head(module)[0]}.weight")
    if num_classes is not None or weight is None or len(weight) == IMAGENET_CLASSES:
        return module
    return _architecture(name, len(weight), **options)


def _architecture(name: str, num_classes: int, **options: Any) -> nn.Module:
    options = {**_OPTIONS.get(name, {}), **options}
    module: nn.Module = torchvision.models.get_model(name, num_classes=num_classes, **options)
    return module


def _image_size(state: dict[str, Tensor]) -> dict[str, int]:
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None or positions.ndim != 3:
        return {}
    return {"image_size": math.isqrt(positions.shape[1] - 1) * patches.shape[-1]}


def _head(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and layer of the classifier: in every torchvision model the last layer with weights."""
    kinds = nn.Linear, nn.Conv2d
    return [(name, part) for name, part in module.named_modules() if isinstance(part, kinds)][-1]


def _outputs(layer: nn.Linear | nn.Conv2d) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def _preprocessing(entry: Any) -> Preprocessing:
    preset = entry.transforms()
    return Preprocessing(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )


def file_name(entry: Any) -> str:
    """What the file of published weights is called."""
    return Path(urlparse(entry.url).path).name


def _renamed(key: str) -> str:
    for pattern, replacement in _RENAMED:
        key = pattern.sub(replacement, key)
    return key
