"""The default recipe beside plain range rules, with several seeds.

    uv run python benchmarks/auto.py --json auto.json digits resnet20
    uv run python benchmarks/auto.py --json auto.json --bits w8a8 w4a8 --seeds 3 yolox_nano

The networks and images are those of benchmarks/peers.py. The seed chooses the calibration images,
where there are more than are taken, and whatever is random in a method. Each file runs in ONNX
Runtime on all evaluation images. Printed are the mean over the seeds, and the least and the most.
`$SUBBYTE_DATA` names the data of all networks but digits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from peers import NETWORKS, fields_of

from subbyte.app.experiment import Experiment
from subbyte.app.runner import run
from subbyte.utils.files import write_json

RULES = ("minmax", "mse", "lp")
RUNTIME = "onnxruntime"

Row = dict[str, Any]


def main() -> None:
    """Measure one network after the other; print and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=" ".join(NETWORKS))
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a8"], help="such as w4a8")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--json", type=Path, required=True, help="where results are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in options.networks:
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows += measured(name, options.bits, seed, Path(folder))
            write_json(options.json, rows)
    print(*table(rows), sep="\n")


def measured(name: str, all_bits: list[str], seed: int, folder: Path) -> list[Row]:
    """A row for each recipe, with one seed, and one for float.

    Args:
        name: Of the network.
        all_bits: Bits of weights and activations, such as w4a8.
        seed: Of the images and of what is random.
        folder: Where the run's folder is made.
    """
    variants: dict[str, Row] = {}
    for bits in all_bits:
        widths: Row = {"weights": int(bits[1]), "activations": int(bits[3])}
        variants[f"{bits} auto"] = widths
        for rule in RULES:
            variants[f"{bits} {rule}"] = {**widths, "method": "range", "ranges": rule}
    fields = fields_of(name, variants=variants, seed=seed, runtimes=[RUNTIME])
    _, results = run(Experiment.model_validate(fields), folder / "run")
    rows = []
    for found in (results["float"], *results["variants"]):
        metrics = found["deployed"][RUNTIME]["metrics"]
        row: Row = {"network": name, "seed": seed, "recipe": found.get("name", "float")}
        row["metric"] = metrics[next(iter(metrics))]
        row["judged"] = (found.get("judged_ranges") or {}).get("chosen")
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def table(rows: list[Row]) -> list[str]:
    """A table in Markdown: a row for each network and pair of bits."""
    names = ("auto", *RULES)
    lines = [f"| network | bits | float | {' | '.join(names)} |", "|---|---|" + "---:|" * 5]
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["network"], row["recipe"]), []).append(100 * row["metric"])
    of_bits = dict.fromkeys(
        (network, recipe.split()[0]) for network, recipe in found if recipe != "float"
    )
    for network, bits in of_bits:
        cells = [shown(found[network, f"{bits} {name}"]) for name in names]
        plain = found[network, "float"][0]
        lines.append(f"| {network} | {bits.upper()} | {plain:.2f} | {' | '.join(cells)} |")
    return lines


def shown(values: list[float]) -> str:
    """Mean, and the least and the most."""
    return f"{sum(values) / len(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
