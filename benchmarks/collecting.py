"""A table's rows, one model a process, kept in a JSON file, and put into a document."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from subbyte.placement.simulation import Simulation
from subbyte.utils.files import atomic

MINUTES = 60  # that one model may take
END = "<!-- until here -->"

Row = dict[str, Any]


def collect(
    script: str,
    path: Path,
    names: Iterable[str],
    anew: Iterable[str] | None,
    more: list[str],
    shown: Callable[[str, Row], str],
) -> dict[str, Row]:
    """The rows in a JSON file, those of `names` that were missing or had failed measured.

    anew: these alone are measured, whether they are there or not. more: further arguments of
    `script --one NAME --json FILE`, which measures one. shown: how a new row is printed.
    """
    rows: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in names if "failed" in rows.get(name, {"failed": ""})]
    for name in missing if anew is None else anew:
        rows[name] = in_a_process(script, name, more)
        with atomic(path) as part:
            part.write_text(json.dumps(rows, indent=1))
        print(shown(name, rows[name]), file=sys.stderr, flush=True)
    return rows


def in_a_process(script: str, name: str, more: list[str]) -> Row:
    """What a script measures of one model; under "failed", if it did not come to that."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, script, "--one", name, "--json", str(file), *more]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {MINUTES} minutes"}
        if file.exists():
            row: Row = json.loads(file.read_text())
            return row
        return {"failed": f"exit code {done.returncode}: {done.stderr.strip()[-400:]}"}


def put_into(docs: Path, begin: str, text: str) -> None:
    """Replace what stands in a document between the line `begin` and the next `END`."""
    before, rest = docs.read_text().split(begin)
    after = rest.split(END, 1)[1]
    with atomic(docs) as part:
        part.write_text(f"{before}{begin}\n{text}\n{END}{after}")


def placed(quantized: Simulation) -> Row:
    """How many layers are quantized, and why the others are not."""
    layers = quantized.placement.layers
    reasons = Counter(
        layer.reason or "one of its operands is not quantized"
        for layer in layers
        if not layer.integer
    )
    nodes = [n for name in quantized.region_names for n in quantized.region(name).graph.nodes]
    return {
        "layers": len(layers),
        "integer": sum(layer.integer for layer in layers),
        "in_float": dict(reasons),
        "norms_left": sum("batch_norm" in str(node.target) for node in nodes),
    }


def left_in_float(row: Row) -> str:
    """What stayed in float and why, or what failed, for a table's cell."""
    left = [f"{count}: {reason}" for reason, count in row.get("in_float", {}).items()]
    left += [f"{row['norms_left']} batch norms"] if row.get("norms_left") else []
    left += [f"failed: {row['failed']}"] if "failed" in row else []
    return "; ".join(left) or "–"
