"""How long the commands take that compute nothing: wall-clock times, each a process of its own.

    uv run benchmarks/startup.py --times 7

Commands take turns, so that a busy moment of the machine does not fall on one of them alone. A
second package, for comparison, is given by the Python that has it: --other PYTHON.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = (
    ["--version"],
    ["--help"],
    ["run", "--help"],
    ["experiments"],
    ["run", "digts"],
    ["run", "digits", "--set", "bach_size=8"],
    ["run", "digits", "--set", "model.name=digts"],
    ["run", "digits", "--set", "variants.w4a4.ranges={name: mse, p: 20}"],
    ["quantize", "resnt18", "--calibration", "digits", "--out", "new.safetensors"],
    ["models"],
    ["models", "timm/resnet18"],
    ["models", "--json"],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7, help="runs of each command")
    parser.add_argument("--other", help="a Python with another version of the package")
    options = parser.parse_args()
    pythons = [sys.executable, *([options.other] if options.other else [])]
    seconds: dict[tuple[str, str], list[float]] = {}
    for turn in range(options.times + 1):
        for command in COMMANDS:
            for python in pythons:
                took = timed([python, "-m", "subbyte", *command])
                if turn:  # the first one finds files that are not in memory yet
                    seconds.setdefault((" ".join(command), python), []).append(took)
    print("| command |" + " median, s | slowest, s |" * len(pythons))
    print("|---|" + "---|---|" * len(pythons))
    for command in COMMANDS:
        measured = [seconds[" ".join(command), python] for python in pythons]
        cells = [f" {statistics.median(took):.2f} | {max(took):.2f} |" for took in measured]
        print(f"| `subbyte {' '.join(command)}` |" + "".join(cells))


def timed(command: list[str]) -> float:
    """Seconds that a process takes, from its start to its end."""
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
