"""The pages that a reader follows, block by block, and the files that such a reader has."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from subbyte.app.cli import app

ROOT = Path(__file__).parents[1]
PAGES = {
    f"{path.parent.name}/{path.stem}": path
    for folder in ("start", "howto")
    for path in sorted((ROOT / "docs" / folder).glob("*.md"))
}
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
SIDE = 64
COLOURS = ("blue", "green", "red")  # the classes, in the alphabet's order


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: As the fence says.
        title: The file that it is, or "".
        text: What is in it.
    """

    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of a page such as "start/digits", in their order."""
    return [Block(*found) for found in BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))]


def run(command: str) -> str:
    """What a command of a page prints; it must end well."""
    if command.startswith("subbyte "):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception!r}"
        return result.output
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def masked(line: str) -> str:
    """A line without its numbers and its spaces."""
    return re.sub(r"\d[\d.,]*", "#", " ".join(line.split()))


def steps(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a block of language `console`, each with what it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line:
            found[-1][1].append(line)
    return found


def draw(path: Path, colour: int, seed: int, side: int = SIDE) -> None:
    """A noisy picture of one colour."""
    pixels = np.random.default_rng(seed).integers(0, 90, (side, side, 3), dtype=np.uint8)
    pixels[..., 2 - colour] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photos(folder: Path) -> None:
    """photos/{train,val}/{blue,green,red}, and photo.jpg."""
    for split, start in (("train", 0), ("val", 100)):
        for number, name in enumerate(COLOURS):
            for i in range(6):
                draw(folder / "photos" / split / name / f"{i}.png", number, start + 10 * number + i)
    draw(folder / "photo.jpg", 0, 500)


def trained(model: nn.Module) -> nn.Module:
    """A classifier of these colours, after some steps."""
    torch.manual_seed(0)
    targets = torch.arange(96) % 3
    images = torch.randn(96, 3, SIDE, SIDE)
    images[torch.arange(96), 2 - targets] += 3
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(20):
        loss = nn.functional.cross_entropy(model.train()(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def scenes(folder: Path) -> None:
    """my-coco, in COCO's layout: coloured squares on grey, and scene.jpg."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "my-coco" / split).mkdir(parents=True)
        images, objects = [], []
        for number in range(6):
            pixels = rng.integers(90, 130, (240, 320, 3), dtype=np.uint8)
            for _ in range(2):
                x, y = int(rng.integers(0, 240)), int(rng.integers(0, 160))
                colour = int(rng.integers(0, 3))
                pixels[y : y + 60, x : x + 60] = 250 * (np.arange(3) == colour)
                objects.append((number, colour + 1, [x, y, 60, 60]))
            name = f"{number}.jpg"
            Image.fromarray(pixels).save(folder / "my-coco" / split / name)
            images.append({"id": number, "file_name": name, "width": 320, "height": 240})
        annotations = [
            {"id": i, "image_id": n, "category_id": c, "bbox": b, "area": 3600, "iscrowd": 0}
            for i, (n, c, b) in enumerate(objects)
        ]
        names = [{"id": i, "name": name} for i, name in enumerate(("red", "green", "blue"), 1)]
        said = {"images": images, "annotations": annotations, "categories": names}
        file = folder / "my-coco" / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(said), encoding="utf-8")
    (folder / "scene.jpg").write_bytes((folder / "my-coco/val/0.jpg").read_bytes())


def built(file: Path) -> Any:
    """The module of a page's Python file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classifier() -> nn.Module:
    """That of the page "My classifier", trained."""
    source = next(b for b in blocks("start/classifier") if b.title == "my_model.py")
    space: dict[str, Any] = {}
    exec(compile(source.text, "my_model.py", "exec"), space)
    return trained(space["build"]())


class Raw(nn.Module):
    """A YOLOX in small, of strides 8, 16 and 32, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 8, 16, 24, 32, 32)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.SiLU())
            for i, o in itertools.pairwise(widths)
        )
        self.heads = nn.ModuleList(nn.Conv2d(width, 8, 1) for width in widths[3:])
        for head in self.heads:
            head.weight.data[:4] *= 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, cells, 4 + 1 + classes], in which scores are behind their sigmoid."""
        levels = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i >= 2:
                levels.append(self.heads[i - 2](x).flatten(2))
        rows = torch.cat(levels, 2).transpose(1, 2)
        return torch.cat([rows[..., :4], rows[..., 4:].sigmoid()], 2)


def onnx_file(model: nn.Module, path: Path, side: int) -> None:
    """A model in float, as PyTorch writes it."""
    example = torch.rand(2, 3, side, side)
    torch.onnx.export(model, (example,), str(path), dynamo=True, verbose=False)


def prepare_digits(folder: Path) -> None:
    """A picture of a zero."""
    from sklearn.datasets import load_digits

    pixels = (load_digits().images[0] * 15).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "zero.png")


def prepare_classifier(folder: Path) -> None:
    """Images and a checkpoint."""
    photos(folder)
    torch.save(classifier().state_dict(), folder / "best.pt")


def prepare_detector(folder: Path) -> None:
    """Images with boxes, and a checkpoint of random weights."""
    scenes(folder)
    torch.manual_seed(0)
    torch.save(built(folder / "my_detector.py").build().state_dict(), folder / "best.pt")


def prepare_onnx(folder: Path) -> None:
    """Images, and two ONNX files."""
    photos(folder)
    scenes(folder)
    onnx_file(classifier(), folder / "classifier.onnx", SIDE)
    torch.manual_seed(0)
    onnx_file(Raw().eval(), folder / "detector.onnx", 128)


def prepare_serve(folder: Path) -> None:
    """Images, and a quantized file."""
    import subbyte

    photos(folder)
    batches = [torch.randn(8, 3, SIDE, SIDE)]
    quantized = subbyte.quantize(classifier(), batches)
    preprocessing = {
        "resize": 72,
        "crop": SIDE,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    path = folder / "model.onnx"
    subbyte.export(quantized, path, batches[0], classes=list(COLOURS), preprocessing=preprocessing)


def prepare_wrap(folder: Path) -> None:
    """Images, and weights of the inner model."""
    photos(folder)
    torch.manual_seed(0)
    torch.save(built(folder / "theirs.py").Backbone().state_dict(), folder / "theirs.pt")


PREPARE: dict[str, Callable[[Path], None]] = {
    "start/digits": prepare_digits,
    "start/classifier": prepare_classifier,
    "start/detector": prepare_detector,
    "start/onnx": prepare_onnx,
    "howto/serve": prepare_serve,
    "howto/wrap": prepare_wrap,
}
