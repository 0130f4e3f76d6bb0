"""Trains an SSD on images with boxes; see `Training` for what can be asked for."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from subbyte.errors import SubbyteError
from subbyte.models import ModelConfig, load
from subbyte.models.ssd import SSD
from subbyte.models.ssd.pretrained import load_backbone, load_start
from subbyte.training.augment import (
    Augmented,
    EpochBatches,
    TrainingImages,
    TrainingSample,
    augmentation,
    read,
)
from subbyte.training.config import Training, learning_rate
from subbyte.training.parallel import Group, joined
from subbyte.training.state import (
    MODEL,
    STATE,
    Position,
    load_state,
    parameters,
    read_log,
    save_last_good,
    save_log,
    save_model,
    save_state,
)
from subbyte.utils.allocator import keeping_memory
from subbyte.utils.files import make_folder
from subbyte.utils.progress import Progress, Silent

Evaluate = Callable[[SSD], Mapping[str, float | None]]


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        model: In evaluation mode.
        rows: Figures of each epoch.
    """

    model: SSD
    rows: list[dict[str, Any]]


@dataclass
class _Run:
    """What a step reads and changes."""

    config: Training
    model: SSD
    forward: nn.Module
    optimizer: torch.optim.Optimizer
    batches: EpochBatches
    out: Path
    metadata: dict[str, Any]
    position: Position
    group: Group
    saved: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.monotonic)


def train(
    config: Training,
    dataset: TrainingImages,
    evaluation: Evaluate | None,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train an SSD for the classes of `dataset`, and write it to a folder.

    A run that was interrupted goes on from its last saved state to the same weights, bit for bit on
    one thread. The folder is a checkpoint for `subbyte.models.build`. The caller's random numbers
    are not touched. Processes that torchrun has started share each batch; each divides its losses
    by its own objects.

    Args:
        config: How to train.
        dataset: The images, and what is on them.
        evaluation: Gets the model in evaluation mode and returns figures by name, which go into the
            log.
        out: The folder.
        resume: Go on with the run in `out`; one that is finished is read.
        progress: Shows how far it is.

    Raises:
        SubbyteError: There is no box in the data set, `out` holds another run, or the loss is not a
            number any more: then the last good weights are in `out`.
    """
    if (out / MODEL).exists() and resume:
        return Trained(_ready(config, dataset, out / MODEL).eval(), read_log(out))
    _check_folder(out, resume)
    _check_boxes(dataset)
    with joined(config.device) as group, keeping_memory():
        run = _begun(config, dataset, out, group, resume)
        _epochs(run, dataset, evaluation, progress or Silent())
        if group.first:
            metadata = {**run.metadata, "steps": run.position.step}
            save_model(out / MODEL, run.model.network.state_dict(), metadata)
            (out / STATE).unlink()
        group.wait()
    return Trained(run.model.eval(), run.position.rows)


def _begun(
    config: Training, dataset: TrainingImages, out: Path, group: Group, resume: bool
) -> _Run:
    """The run before its first step, or where it was interrupted."""
    if min(config.batch_size, len(dataset)) < group.size:
        raise SubbyteError(
            f"a batch of {min(config.batch_size, len(dataset))} images cannot be shared by "
            f"{group.size} processes: give a batch_size of at least as many"
        )
    model = _model(config, dataset).to(group.device)
    model.beta = config.box_beta
    if config.bfloat16:  # convolutions of this format are faster with the channels last
        model = model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(config, model)
    position = Position(processes=group.size)
    if resume and (out / STATE).exists():
        load_state(out, config, model, optimizer, position)
    group.wait()  # until all have looked
    if group.first and position.step == 0:
        make_folder(out)
        save_state(out, config, model, optimizer, position)
    batches = EpochBatches(
        len(dataset),
        config.batch_size,
        config.epochs,
        config.seed,
        start=position.step,
        rank=group.rank,
        ranks=group.size,
    )
    metadata = {"model": config.model, "classes": list(dataset.classes)}
    forward = model if group.size == 1 else DistributedDataParallel(model)
    return _Run(config, model, forward, optimizer, batches, out, metadata, position, group)


def _epochs(
    run: _Run, dataset: TrainingImages, evaluation: Evaluate | None, progress: Progress
) -> None:
    """All steps that are left, an epoch at a time."""
    steps = _loaded(run, dataset)
    per_epoch = run.batches.per_epoch
    run.model.train()
    while run.position.step < run.batches.steps:
        left = per_epoch - run.position.step % per_epoch
        described = _described(run)
        for images, targets in progress.track(itertools.islice(steps, left), described, left):
            _step(run, images, targets)
            if run.position.step % per_epoch == 0:
                _end_epoch(run, evaluation, progress)
            if run.group.first and time.monotonic() - run.saved >= run.config.save_seconds:
                save_state(run.out, run.config, run.model, run.optimizer, run.position)
                run.saved = time.monotonic()


def _loaded(run: _Run, dataset: TrainingImages) -> Any:
    """An iterator of (images, targets), batch by batch."""
    config, settings = run.config, run.model.settings
    transform = augmentation(
        settings,
        distort=config.distort,
        zoom_out=config.zoom_out,
        crop=config.crop,
        flip=config.flip,
    )
    loader = DataLoader(
        Augmented(dataset, transform, config.seed),
        batch_sampler=run.batches,
        num_workers=config.workers,
        collate_fn=_columns,
        generator=torch.Generator(),  # the loader's own draw, which nothing follows from
    )
    return iter(loader)


def _columns(samples: list[TrainingSample]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    return [image for image, _ in samples], [target for _, target in samples]


def _step(run: _Run, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    """One batch: losses, gradients, weights; a loss that is not a number changes none of these."""
    device = run.group.device
    rate = learning_rate(run.config, run.position.step, run.batches.steps)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=run.config.bfloat16):
        losses = run.forward(
            [image.to(device) for image in images],
            [{key: value.to(device) for key, value in target.items()} for target in targets],
        )
    loss = losses["bbox_regression"] + losses["classification"]
    means = {key: run.group.mean(value).item() for key, value in losses.items()}
    if not math.isfinite(sum(means.values())):
        raise _diverged(run, f"loss is {sum(means.values())}", rate)
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    length = torch.nn.utils.clip_grad_norm_(
        run.model.parameters(), run.config.clip_gradient or math.inf
    )
    if not length.isfinite():
        raise _diverged(run, f"gradient has the length {length.item()}", rate)
    run.optimizer.step()
    run.position.step += 1
    for key, mean in means.items():
        run.position.sums[key] = run.position.sums.get(key, 0.0) + mean


def _diverged(run: _Run, what: str, rate: float) -> SubbyteError:
    file, step = save_last_good(run.out, run.metadata, write=run.group.first)
    return SubbyteError(
        f"the {what} at step {run.position.step + 1} of {run.batches.steps}, at a learning rate of "
        f"{rate:.3g}: the weights after step {step} are in {file}, so go on from these as "
        "checkpoint, in another folder and with a lower learning_rate"
    )


def _end_epoch(run: _Run, evaluation: Evaluate | None, progress: Progress) -> None:
    """Evaluate where it is time to, and write the epoch's row."""
    position, per_epoch = run.position, run.batches.per_epoch
    epoch = position.step // per_epoch
    row: dict[str, Any] = {"epoch": epoch, "step": position.step}
    row |= {key: value / per_epoch for key, value in position.sums.items()}
    every = run.config.evaluate_every
    last = epoch == run.config.epochs
    if evaluation is not None and (last or (every is not None and epoch % every == 0)):
        if run.group.first:
            run.model.eval()
            with progress.working(f"evaluating after epoch {epoch}"), torch.no_grad():
                figures = evaluation(run.model)
            row |= {k: None if v is None else float(v) for k, v in figures.items()}
            run.model.train()
        run.group.wait()
    row["seconds"] = round(time.monotonic() - run.began, 1)
    position.rows.append(row)
    position.sums.clear()
    if run.group.first:
        save_log(run.out, position)


def _described(run: _Run) -> str:
    """What the epoch that begins is called: its number, and how the last one went."""
    rows = run.position.rows
    description = f"{run.config.model}, epoch {len(rows) + 1} of {run.config.epochs}"
    if not rows:
        return description
    loss = rows[-1].get("bbox_regression", 0.0) + rows[-1].get("classification", 0.0)
    return f"{description}, loss {loss:.2f}"


def _optimizer(config: Training, model: SSD) -> torch.optim.Optimizer:
    groups = parameters(model, config.weight_decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, config.learning_rate)
    return torch.optim.SGD(groups, config.learning_rate, config.momentum)


def _model(config: Training, dataset: TrainingImages) -> SSD:
    """The model before the first step."""
    classes = len(dataset.classes) + 1
    asked = ModelConfig(name=config.model, num_classes=classes)
    model = load(asked).module
    assert isinstance(model, SSD)
    if config.checkpoint is not None:
        load_start(
            model,
            config.model,
            config.checkpoint,
            tuple(dataset.classes),
            config.checkpoint_key,
        )
    if config.backbone is not None:
        load_backbone(model, config.model, config.backbone, config.checkpoint_key)
    return model


def _ready(config: Training, dataset: TrainingImages, file: Path) -> SSD:
    """The model of a run that is finished."""
    classes = len(dataset.classes) + 1
    asked = ModelConfig(name=config.model, num_classes=classes, checkpoint=file)
    model = load(asked).module
    assert isinstance(model, SSD)
    return model.to(config.device)


def _check_folder(out: Path, resume: bool) -> None:
    if not resume and (out / MODEL).exists():
        raise SubbyteError(f"{out} holds a trained model: name another folder")
    if not resume and (out / STATE).exists():
        raise SubbyteError(f"{out} holds a run that was interrupted: resume it, or name another")


def _check_boxes(dataset: TrainingImages) -> None:
    """Look for the first box; all images are read only where there is none."""
    if len(dataset) == 0:
        raise SubbyteError("the training set has no image: give one with images and boxes")
    if not any(len(read(dataset, index)[1]) for index in range(len(dataset))):
        raise SubbyteError(
            f"the training set has no box on any of its {len(dataset)} images: give one with "
            "annotated objects"
        )
