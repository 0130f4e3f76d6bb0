"""All range rules side by side, in simulation: accuracy, agreement with float and SQNR.

    uv run python benchmarks/ranges.py EXPERIMENT.yaml --set KEY=VALUE --bits w8a8 w4a4

Model, data and seed are the experiment's, its variants are not run. Each rule chooses the ranges of
weights and activations alike; everything else is a recipe's default, with the method `range`.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import subbyte
from subbyte.app import arguments, experiment
from subbyte.app.setup import Setup, set_up
from subbyte.numerics.ranges import names as rule_names
from subbyte.targets import base as verify
from subbyte.tasks.metrics import classification as task
from subbyte.utils import files
from subbyte.utils.bars import Bars
from subbyte.utils.progress import Progress

BITS = ("w8a8", "w6a6", "w5a5", "w4a4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a YAML file or a built-in experiment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--bits", nargs="+", default=BITS, help="such as w4a8")
    parser.add_argument("--rules", nargs="+", default=rule_names(), help="as a recipe's ranges")
    parser.add_argument("--json", type=Path, help="written row by row, and continued if it exists")
    options = parser.parse_args()
    try:
        recipes = {
            (bits, rule): recipe_of(bits, rule) for bits in options.bits for rule in options.rules
        }
        loaded = experiment.load(options.experiment, [*options.settings, "runtimes=[]"])
        print(table(measure(set_up(loaded, (), Bars()), recipes, options.json, Bars())))
    except subbyte.SubbyteError as error:
        sys.exit(str(error))


def recipe_of(bits: str, rule: str) -> subbyte.Recipe:
    """The recipe of `w4a8` and a rule, the latter in the YAML of a recipe's `ranges`."""
    return arguments.recipe_of(bits, [f"ranges={rule}", "method=range"], seed=0)


def measure(
    setup: Setup,
    recipes: dict[tuple[str, str], subbyte.Recipe],
    path: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run each recipe and return everything measured, also written to `path` after each.

    Raises:
        SubbyteError: `path` holds measurements of another experiment.
    """
    calibration = list(setup.task.data.calibration)
    evaluation = list(setup.task.data.evaluation)
    reference = outputs(setup.module, evaluation, setup, progress, "float")
    header = {
        "version": subbyte.__version__,
        "model": setup.experiment.model.model_dump(mode="json", exclude_unset=True),
        "data": setup.experiment.data.model_dump(mode="json", exclude_unset=True),
        "seed": setup.experiment.seed,
        "images": reference.images,
        "calibration_images": setup.task.data.calibration.images,
        "overlap_images": setup.task.data.overlap,
        "float": task.metrics(reference),
    }
    rows = finished(path, header)
    for (bits, rule), recipe in recipes.items():
        if any((row["bits"], row["rule"]) == (bits, rule) for row in rows):
            continue
        started = time.perf_counter()
        quantized = subbyte.quantize(setup.module, calibration, recipe, progress=progress)
        seconds = time.perf_counter() - started
        found = outputs(quantized, evaluation, setup, progress, f"{bits} {rule}")
        rows.append({"bits": bits, "rule": rule, "seconds": seconds, **scores(reference, found)})
        if path is not None:
            files.write_text(path, json.dumps(header | {"rows": rows}, indent=2))
    return header | {"rows": rows}


def finished(path: Path | None, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that an interrupted run has left in `path`."""
    if path is None or not path.exists():
        return []
    held = json.loads(path.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = held.pop("rows")
    if held != json.loads(json.dumps(header)):
        raise subbyte.SubbyteError(f"{path} holds another experiment's rows: give another file")
    return rows


def outputs(
    model: Any, evaluation: list[Any], setup: Setup, progress: Progress, name: str
) -> task.Logits:
    """Logits and labels of all evaluation images."""
    runs = {name: setup.task.simulated(model)}
    parts, targets = verify.collected(runs, evaluation, progress, name)
    images = range(sum(map(len, parts[name])))
    found: task.Logits = setup.task.outputs(parts[name], targets, images)
    return found


def scores(reference: task.Logits, found: task.Logits) -> dict[str, float | None]:
    """What is reported of one variant; SQNR `None` where it is not finite."""
    sqnr = task.sqnr_db(reference, found)
    return {
        "top1": task.metrics(found)["top1"],
        "agreement_with_float": task.agreement(reference, found),
        "sqnr_db": sqnr if sqnr is not None and math.isfinite(sqnr) else None,
    }


def table(results: dict[str, Any]) -> str:
    """A Markdown table, one line a rule, three columns a pair of bits."""
    rows = {(row["rule"], row["bits"]): row for row in results["rows"]}
    rules = list(dict.fromkeys(rule for rule, _ in rows))
    widths = list(dict.fromkeys(bits for _, bits in rows))
    low, high = task.interval(results["float"]["top1"], results["images"])
    lines = [
        f"float: top-1 {results['float']['top1']:.2%} ({low:.1%} to {high:.1%}) on "
        f"{results['images']} images; {results['calibration_images']} calibration images, "
        f"{results['overlap_images']} of them evaluated too; seed {results['seed']}.",
        "",
        "Each cell: top-1 %, agreement with float %, SQNR of the logits in dB.",
        "",
        f"| rule | {' | '.join(bits.upper() for bits in widths)} |",
        f"|---|{'---:|' * len(widths)}",
    ]
    for rule in rules:
        cells = [cell(rows.get((rule, bits))) for bits in widths]
        lines.append(f"| `{rule}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: dict[str, Any] | None) -> str:
    """Three figures of one row; a dash where it was not run."""
    if row is None:
        return "–"
    sqnr = "–" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
    return f"{100 * row['top1']:.2f}, {100 * row['agreement_with_float']:.1f}, {sqnr}"


if __name__ == "__main__":
    main()
