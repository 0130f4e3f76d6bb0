"""What a search built, as a table and a picture: what is lost against the size of the file.

    uv run subbyte run benchmarks/imagenet_search.yaml --out runs/search …
    uv run --group benchmarks python benchmarks/frontier.py runs/search one --out frontier.svg

Beside the search's configurations stand the run's other variants, on all evaluation images, in the
first runtime. `--runs` adds those of other runs of the same model and images.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curve import save

OFFSET: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}

Row = dict[str, Any]


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("variant", help="the search")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="of plain variants")
    parser.add_argument("--out", type=Path, help="an SVG or PNG")
    options = parser.parse_args()
    folder = options.run / "variants" / options.variant
    built = json.loads((folder / "frontier.json").read_text())
    asked = json.loads((folder / "variant.json").read_text())["search"]["max_drop"]
    plain = [row for run in (options.run, *options.runs) for row in plain_rows(run)]
    print(*table(built, plain), sep="\n")
    if options.out is not None:
        draw(built, plain, asked, options.out)


def plain_rows(run: Path) -> list[Row]:
    """Name, bytes and points lost of each variant of a run that is not a search."""
    results = json.loads((run / "results.json").read_text())
    rows = []
    for entry in results["variants"]:
        if not entry.get("search"):
            before, after = (metric_of(x) for x in (results["float"], entry))
            rows.append(
                {"name": entry["name"], "cost": entry["size_bytes"], "lost": before - after}
            )
    return rows


def metric_of(entry: Row) -> float:
    """The primary metric of a file in the first runtime."""
    metrics = next(iter(entry["deployed"].values()))["metrics"]
    return float(metrics[next(iter(metrics))])


def table(built: Iterable[Row], plain: Iterable[Row]) -> list[str]:
    """A table in Markdown, the smallest file first."""
    lines = ["| | kB | points lost | weights of so many bits |", "|---|---:|---:|---|"]
    rows = [{**row, "name": "**chosen**" if row["chosen"] else "built"} for row in built]
    for row in sorted([*rows, *plain], key=lambda row: row["cost"]):
        widths = Counter(str(bits or "float") for bits in row.get("weights", {}).values())
        said = ", ".join(f"{count} × {bits}" for bits, count in sorted(widths.items()))
        lines.append(
            f"| {row['name']} | {row['cost'] / 1e3:,.1f} | {100 * row['lost']:.2f} | {said} |"
        )
    return lines


def draw(built: list[Row], plain: list[Row], asked: float, path: Path) -> None:
    """Write the picture.

    Args:
        built: The search's configurations.
        plain: Other variants.
        asked: How many points may be lost.
        path: Where it is written.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.axhline(asked, color="0.5", linestyle=":", label=f"asked: at most {asked:g}")
    rest = [row for row in built if not row["chosen"]]
    chosen = [row for row in built if row["chosen"]]
    for rows, marker, label in (
        (rest, "o", "built by the search"),
        (chosen, "*", "chosen"),
        (plain, "s", "the same bits everywhere"),
    ):
        points = [(row["cost"] / 1e3, 100 * row["lost"]) for row in rows]
        if points:
            axes.scatter(*zip(*points, strict=True), marker=marker, s=60, label=label)
    for row in plain:
        axes.annotate(row["name"], (row["cost"] / 1e3, 100 * row["lost"]), (5, 5), **OFFSET)
    axes.set(xlabel="file, kB", ylabel="points lost")
    save(figure, axes, path)


if __name__ == "__main__":
    main()
