"""Makes the bundled detector's weights: `python -m subbyte.training.scenes --out FILE`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subbyte.data.detection.scenes import COUNTS, scene, scenes
from subbyte.data.digits import CLASSES
from subbyte.errors import SubbyteError
from subbyte.training.config import Training
from subbyte.training.evaluate import figures
from subbyte.training.ssd import train
from subbyte.training.state import MODEL
from subbyte.utils.bars import Bars
from subbyte.utils.files import atomic
from subbyte.utils.progress import Progress

SCENES = 200_000
FIRST = 2 / 5  # of the scenes, on which it learns to find digits; on the others, to place boxes


def config(seed: int = 0) -> Training:
    """How it learns to find digits.

    Each scene is seen once, as of few scenes it learns the digits by heart. Scenes are of random
    colours, sizes and places already, and no digit is one in a mirror.
    """
    return Training(
        model="digit_scenes",
        epochs=1,
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=200,
        optimizer="adamw",
        weight_decay=0.02,
        distort=False,
        zoom_out=1.0,
        crop=False,
        flip=False,
        bfloat16=True,
        seed=seed,
    )


def placing(found: Path, seed: int = 0) -> Training:
    """How it goes on from the weights in the folder `found`: small errors of boxes count more."""
    fields = config(seed).model_dump()
    return Training(**fields | {"checkpoint": found, "learning_rate": 1e-3, "box_beta": 0.1})


@dataclass(frozen=True)
class VariedScenes:
    """`count` scenes of the training split from `first` on, varied, drawn when asked for."""

    count: int
    first: int = 0
    classes: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Scene `index`, uint8 [3, 128, 128], and what is on it."""
        image, objects = scene("train", self.first + index, varied=True)
        return torch.from_numpy(image).permute(2, 0, 1), objects.target()


def make(
    out: Path, *, count: int = SCENES, seed: int = 0, progress: Progress | None = None
) -> dict[str, float | None]:
    """Train on scenes and write the weights to the file `out`, whole or not at all.

    It learns to find digits on the first two fifths of the scenes, then to place their boxes on the
    others. The same arguments give the same weights: it runs on one thread.

    Args:
        out: The file, .safetensors.
        count: How many scenes, at least 3.
        seed: Of the first weights and of the order of the scenes.
        progress: Shows how far it is.

    Returns:
        COCO's metrics on the evaluation scenes.
    """
    first = round(FIRST * count)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, atomic(out) as part:
            found, placed = Path(folder) / "found", Path(folder) / "placed"
            train(config(seed), VariedScenes(first), None, found, progress=progress)
            others = VariedScenes(count - first, first)
            trained = train(placing(found, seed), others, None, placed, progress=progress)
            part.write_bytes((placed / MODEL).read_bytes())
    finally:
        torch.set_num_threads(threads)
    return figures(trained.model, scenes("evaluation", range(COUNTS["evaluation"])))


def main(arguments: list[str] | None = None) -> int:
    """Train on training scenes, write the weights, report AP on the evaluation scenes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to write (.safetensors)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=SCENES)
    options = parser.parse_args(arguments)
    try:
        found = make(options.out, count=options.scenes, seed=options.seed, progress=Bars())
    except SubbyteError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.out}: AP {found['AP']:.3f} on {COUNTS['evaluation']} evaluation scenes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
