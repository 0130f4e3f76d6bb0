"""timm's models as timm/NAME, with published weights, a checkpoint's, or random ones."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from subbyte.data.preprocessing import Preprocessing
from subbyte.errors import SubbyteError, unknown
from subbyte.models.checkpoint import load_state, read_checkpoint
from subbyte.models.config import TIMM, ModelConfig
from subbyte.models.spec import ModelSpec

DEFAULT = "DEFAULT"  # timm's own choice among a model's published weights

Create = Callable[..., nn.Module]


def load(config: ModelConfig) -> ModelSpec:
    """A timm model by its name behind "timm/", which may carry the tag of its weights.

    A tag beside a checkpoint names the preprocessing that the checkpoint was trained with; without
    one it is that of timm's default weights. The number of classes is the checkpoint's.
    """
    timm = importlib.import_module("timm")
    architecture, tag = _checked(timm, config)
    full = architecture if tag == DEFAULT else f"{architecture}.{tag}"

    def create(**options: Any) -> nn.Module:
        with _quiet():
            module: nn.Module = timm.create_model(full, **options)
        return module

    if config.checkpoint is not None:
        module = _with_checkpoint(create, config)
    elif config.weights is not None:
        module = _published(timm, create, full, config)
    else:
        module = create(num_classes=config.num_classes)
    trained = config.checkpoint is not None or config.weights is not None
    return ModelSpec(
        name=f"{TIMM}{architecture}",
        module=module,
        task="classification",
        preprocessing=_preprocessing(timm, module, f"{TIMM}{full}"),
        classes=_classes(timm, module) if trained else None,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without remarks on timm's own names and on each retry of a download; stdout is ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _checked(timm: Any, config: ModelConfig) -> tuple[str, str]:
    """Architecture and tag that `config` names, both known to timm; `DEFAULT` without a tag."""
    architecture, _, tag = str(config.name).removeprefix(TIMM).partition(".")
    if architecture not in (known := timm.list_models()):
        raise unknown("model", str(config.name), [f"{TIMM}{name}" for name in known])
    published = timm.list_pretrained(architecture)
    wanted = config.weights or tag or DEFAULT
    if wanted == DEFAULT and (published or config.weights is None):
        return architecture, DEFAULT
    if not published:
        raise SubbyteError(
            f"timm has no published weights of {TIMM}{architecture}: leave '{wanted}' out, "
            "or give a checkpoint"
        )
    tags = [name.partition(".")[2] for name in published]
    if wanted not in tags:
        known_tags = [DEFAULT, *filter(None, tags)]
        raise unknown(f"weights of {TIMM}{architecture}", wanted, known_tags)
    return architecture, wanted


def _published(timm: Any, create: Create, full: str, config: ModelConfig) -> nn.Module:
    """With timm's published weights, which timm downloads where they are not in its cache."""
    source = timm.get_pretrained_cfg(full)
    if not source.num_classes:
        raise SubbyteError(
            f"the weights {source.tag} of {config.name} give features and no classes: "
            "give a checkpoint with a classifier"
        )
    if config.num_classes not in (None, source.num_classes):
        raise SubbyteError(
            f"the weights {source.tag} of {config.name} have {source.num_classes} classes, not "
            f"{config.num_classes}: leave num_classes out, or give a checkpoint instead of weights"
        )
    try:
        return create(pretrained=True)
    except Exception as error:
        raise SubbyteError(
            f"the weights {source.tag} of {config.name} could not be loaded "
            f"({type(error).__name__}): {_remedy(source)}"
        ) from error


def _remedy(source: Any) -> str:
    if source.hf_hub_id and not source.custom_load:
        file = source.hf_hub_filename or "model.safetensors"
        where = f"{file} from https://huggingface.co/{source.hf_hub_id}"
    else:
        where = str(source.url)
    if source.custom_load:  # files of other frameworks, which only timm reads
        return f"timm reads {where} and keeps it in its cache, so load it once with a network"
    return f"load it once with a network, or fetch {where} and give it as model.checkpoint"


def _with_checkpoint(create: Create, config: ModelConfig) -> nn.Module:
    assert config.checkpoint is not None
    state = read_checkpoint(config.checkpoint, key=config.checkpoint_key)
    module = create(num_classes=config.num_classes)
    fitted = _renamed(state, module)
    head = fitted.get(f"{_head(module)}.weight")
    if config.num_classes is None and head is not None and len(head) != _outputs(module):
        module = create(num_classes=len(head))
        fitted = _renamed(state, module)
    load_state(module, fitted, config.checkpoint)
    return module


def _renamed(state: OrderedDict[str, Tensor], module: nn.Module) -> Mapping[str, Tensor]:
    """`state` as the module names it: timm keeps beside its models how published files differ.

    Where a file has the module's own names nothing is changed, so that nothing is resized.
    """
    theirs = sys.modules[type(module).__module__]
    convert = getattr(theirs, "checkpoint_filter_fn", None)
    differing = module.state_dict().keys() ^ state.keys()
    if convert is None or all(name.endswith(".num_batches_tracked") for name in differing):
        return state
    try:
        converted: Mapping[str, Tensor] = convert(OrderedDict(state), module)
    except Exception:  # a file of another model: what it lacks is reported where it is loaded
        return state
    return converted


def _head(module: nn.Module) -> str | None:
    """Name of the (first) classifier."""
    head: Any = getattr(module, "pretrained_cfg", {}).get("classifier")
    return head if isinstance(head, str) or not head else str(head[0])


def _outputs(module: nn.Module) -> int:
    return int(getattr(module, "num_classes", 0) or 0)


def _classes(timm: Any, module: nn.Module) -> tuple[str, ...] | None:
    """Names of ImageNet's classes, where the number of outputs is that of one of its sets."""
    subset = timm.data.infer_imagenet_subset(module)
    return None if subset is None else tuple(timm.data.ImageNetInfo(subset).label_descriptions())


def _preprocessing(timm: Any, module: nn.Module, name: str) -> Preprocessing:
    """What `timm.data.create_transform` does to an image that is evaluated.

    It scales to 1/crop_pct of the input's size, then crops: the short side ("center"), or both
    sides whatever their ratio ("squash").
    """
    data = timm.data.resolve_model_data_config(module)
    _, height, width = data["input_size"]
    tall, wide = (math.floor(length / data["crop_pct"]) for length in (height, width))
    squash = data["crop_mode"] == "squash"
    if not squash and (data["crop_mode"] != "center" or height != width):
        raise SubbyteError(
            f"{name} was trained on images that are padded to {height}x{width}, which no "
            "preprocessing here does: build it in a function and give that as model.factory, "
            "with data.preprocessing"
        )
    return Preprocessing(
        resize=(tall, wide) if squash else tall,
        crop=height if height == width else (height, width),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
    )
