"""Accuracy against processor seconds, as a picture, of what benchmarks/methods.py has measured.

    uv run python benchmarks/methods.py --bits w4a4 --seeds 2 --json FILE --methods METHOD …
    uv run --group benchmarks python benchmarks/curve.py --json FILE --bits w4a4 --out PICTURE.svg

Each method is one line through its settings (`steps`, say), in the order of their seconds; a point
is the mean over the seeds in the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

Line = list[tuple[float, float]]  # seconds, top-1 %


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="what methods.py has written")
    parser.add_argument("--bits", default="w4a4")
    parser.add_argument("--out", type=Path, required=True, help="an SVG or PNG")
    options = parser.parse_args()
    found = json.loads(options.json.read_text())
    draw(lines(found, options.bits), 100 * found["float"]["top1"], options.bits, options.out)


def lines(found: dict[str, Any], bits: str) -> dict[str, Line]:
    """The points of each method at these bits, by its name."""
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for key, row in found.items():
        width, _, rest = key.partition(" | ")
        if width == bits:
            rows[rest.rpartition(" | ")[0]].append(row)
    found_lines: dict[str, Line] = defaultdict(list)
    for method, own in rows.items():
        read = yaml.safe_load(method)
        name = read if isinstance(read, str) else read["name"]
        seconds = statistics.mean(row["seconds"] for row in own)
        found_lines[name].append((seconds, 100 * statistics.mean(row["top1"] for row in own)))
    return {name: sorted(line) for name, line in found_lines.items()}


def draw(found: dict[str, Line], best: float, bits: str, path: Path) -> None:
    """Write the picture: seconds on a logarithmic axis, accuracy on the other."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.axhline(best, color="0.5", linestyle=":", label="float")
    for name, line in found.items():
        axes.plot(*zip(*line, strict=True), marker="o", label=name)
    axes.set(xscale="log", xlabel="processor seconds, one thread", ylabel="top-1 %")
    axes.set_title(f"ResNet-20, all CIFAR-10 test images, {bits.upper()}")
    ticks = [5, 10, 20, 50, 100, 200, 500]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    save(figure, axes, path)


def save(figure: Any, axes: Any, path: Path) -> None:
    """Write a picture with a grid and a legend.

    Args:
        figure: The whole picture.
        axes: Its only ones.
        path: An SVG or PNG.
    """
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
