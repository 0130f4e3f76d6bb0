"""Time and peak memory of whole runs in two checkouts of the package, in turns.

    uv run python benchmarks/side_by_side.py --old ../before --rounds 3 digits resnet20

`digits` is `subbyte run digits`. `resnet20` is W8A8, W4A4 and W4A8 by `range` of ResNet-20 with
1,024 calibration images and all evaluation images of CIFAR-10 (cifar10_range.yaml; data and weights
from $SUBBYTE_DATA). Each run is a process of its own and writes into a temporary folder. The old
checkout has an environment of its own in `.venv`. Who begins changes from round to round. A ratio
is that of one round; printed are the median and the least and the most. Peak memory is the most
that the kernel reports of any round. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Checkout:
    """A checkout, and the Python that has what its package needs."""

    root: Path
    python: Path


@dataclass(frozen=True)
class Taken:
    """What a process has taken: seconds from start to end, and MB of memory at most."""

    seconds: float
    megabytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="+", choices=COMMANDS, metavar="COMMAND", help=NAMES)
    parser.add_argument("--old", type=Path, required=True, help="the checkout to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    checkouts = {"old": old_checkout(options.old), "new": Checkout(HERE.parent, PYTHON)}
    commands = {name: COMMANDS[name]() for name in options.commands}
    found: dict[str, dict[str, list[Taken]]] = {
        name: {which: [] for which in checkouts} for name in commands
    }
    for i in range(options.rounds):
        for name, arguments in commands.items():
            for which in sorted(checkouts, reverse=bool(i % 2 == 0)):
                taken = run(checkouts[which], arguments)
                found[name][which].append(taken)
                said = f"{taken.seconds:.1f} s, {taken.megabytes:.0f} MB"
                print(f"round {i + 1}: {name}, {which}: {said}", file=sys.stderr, flush=True)
    print("| command | old, s | new, s | new of old (least to most) | old, MB | new, MB |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, own in found.items():
        print(row(name, own["old"], own["new"]))


def digits() -> list[str]:
    """The arguments of `subbyte` for the bundled experiment."""
    return ["run", "digits"]


def resnet20() -> list[str]:
    """The arguments of `subbyte` for ResNet-20."""
    if "SUBBYTE_DATA" not in os.environ:
        sys.exit("SUBBYTE_DATA is not set: it names the folder of real data")
    root = Path(os.environ["SUBBYTE_DATA"]).resolve() / "cifar10"
    settings = {
        "model.checkpoint": root / "resnet20-12fca82f.th",
        "data.calibration": root / "train",
        "data.evaluation": root / "test",
    }
    arguments = ["run", str(HERE / "cifar10_range.yaml")]
    for key, value in settings.items():
        arguments += ["--set", f"{key}={value}"]
    return arguments


COMMANDS: dict[str, Callable[[], list[str]]] = {"digits": digits, "resnet20": resnet20}
NAMES = " or ".join(COMMANDS)
PYTHON = Path(sys.executable)


def old_checkout(root: Path) -> Checkout:
    """A checkout with its own Python."""
    checkout = Checkout(root.resolve(), root.resolve() / ".venv" / "bin" / "python")
    if not checkout.python.exists():
        sys.exit(f"{checkout.python} is missing: run `uv sync` in {root}")
    return checkout


def run(checkout: Checkout, arguments: list[str]) -> Taken:
    """What a run takes in a checkout, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(checkout.root / "src")}
    with tempfile.TemporaryDirectory() as folder:
        command = [str(checkout.python), "-m", "subbyte", *arguments]
        command += ["--out", str(Path(folder) / "run")]
        log = Path(folder) / "log"
        with log.open("w") as output:
            started = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            shown = log.read_text()[-1000:]
            sys.exit(f"{' '.join(command)} ended with {process.returncode}: {shown}")
    return Taken(seconds, usage.ru_maxrss / 1024)


def row(name: str, old: list[Taken], new: list[Taken]) -> str:
    """A row of the table, of what one command took in each round."""
    ratios = [after.seconds / before.seconds for before, after in zip(old, new, strict=True)]
    seconds = [f"{median(taken.seconds for taken in each):.1f}" for each in (old, new)]
    memory = [f"{max(taken.megabytes for taken in each):.0f}" for each in (old, new)]
    ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"| `{name}` | {' | '.join([*seconds, ratio, *memory])} |"


if __name__ == "__main__":
    main()
