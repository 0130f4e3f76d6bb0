"""Makes the bundled model's weights: `python -m subbyte.training.digits --out FILE --seed 0`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from subbyte.data.digits import digits_split
from subbyte.errors import SubbyteError
from subbyte.models.digits import PREPROCESSING, Digits
from subbyte.utils.bars import Bars
from subbyte.utils.files import atomic
from subbyte.utils.progress import Progress, Silent

EPOCHS = 60
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
LABEL_SMOOTHING = 0.05

# At 8 pixels a side, an eighth is one pixel.
AUGMENTATION = v2.RandomAffine(
    degrees=10, translate=(1 / 8, 1 / 8), scale=(0.9, 1.1), interpolation=InterpolationMode.BILINEAR
)


def train(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    progress: Progress | None = None,
) -> Digits:
    """A digits model, trained, in evaluation mode.

    The same seed gives the same weights: it runs on one thread, and neither takes nor moves the
    caller's random numbers. AdamW, one cosine cycle, shifts, rotations and scalings.

    Args:
        images: uint8 [N, 8, 8].
        labels: int64 [N].
        seed: Of weights, order and augmentation.
        epochs: How many.
        progress: Shows how far it is.
    """
    pixels, targets = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)
    with _reproducible(seed):
        model = Digits().train()
        steps = epochs * (len(pixels) // BATCH_SIZE)
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        for _ in (progress or Silent()).track(range(epochs), "training digits", epochs):
            for batch in _batches(len(pixels)):
                loss = F.cross_entropy(
                    model(_augmented(pixels[batch])),
                    targets[batch],
                    label_smoothing=LABEL_SMOOTHING,
                )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
    return model.eval()


def top1(model: Digits, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that a model gives their label, in [0, 1].

    Args:
        model: In evaluation mode.
        images: uint8 [N, 8, 8].
        labels: int64 [N].
    """
    with torch.no_grad():
        predicted = model(_normalized(torch.from_numpy(images).unsqueeze(1))).argmax(1)
    return float((predicted == torch.from_numpy(labels)).double().mean())


def save(model: Digits, path: Path) -> None:
    """Write the weights as safetensors, whole or not at all."""
    with atomic(path) as part:
        part.write_bytes(safetensors.torch.save(model.state_dict(), {"format": "pt"}))


def main(arguments: list[str] | None = None) -> int:
    """Train on the training half, write the weights, report top-1 on the evaluation half."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)
    images, labels, evaluation_images, evaluation_labels = digits_split()
    model = train(images, labels, seed=options.seed, epochs=options.epochs, progress=Bars())
    try:
        save(model, options.out)
    except SubbyteError as error:
        print(error, file=sys.stderr)
        return 2
    score = top1(model, evaluation_images, evaluation_labels)
    print(f"{options.out}: top-1 {score:.2%} of {len(evaluation_labels)} evaluation images")
    return 0


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _batches(count: int) -> Iterator[Tensor]:
    """Indices in random order; what does not fill a batch waits for the next epoch."""
    order = torch.randperm(count)
    return iter(torch.split(order[: count - count % BATCH_SIZE], BATCH_SIZE))


def _augmented(pixels: Tensor) -> Tensor:
    """Each image of the batch transformed by its own random parameters, then normalized."""
    return _normalized(torch.stack([AUGMENTATION(image) for image in pixels]))


def _normalized(pixels: Tensor) -> Tensor:
    scaled = v2.functional.to_dtype(pixels, torch.float32, scale=True)
    normal: Tensor = v2.functional.normalize(
        scaled, list(PREPROCESSING.mean), list(PREPROCESSING.std)
    )
    return normal


if __name__ == "__main__":
    sys.exit(main())
