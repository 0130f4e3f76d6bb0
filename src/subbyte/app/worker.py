"""One of several processes of a run: `python -m subbyte.app.worker FOLDER`.

It reads the names of variants from standard input, a line each, and runs them in the folder's own
experiment. On standard output it answers `done`, `failed WHY` or, where a search did not meet its
budget, `missed WHY`. In front of what must be measured
alone it writes `measure` and waits for a line, and `measured` behind it. `said LINE` is progress.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from subbyte.app.experiment import load
from subbyte.app.run_folder import EXPERIMENT, RunFolder, log_to
from subbyte.app.runner import run_variant
from subbyte.app.setup import set_up
from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.utils.interrupt import CtrlC, Interruptible
from subbyte.utils.lines import Lines

MEASURE, GO, MEASURED, DONE, FAILED = "measure", "go", "measured", "done", "failed"
MISSED, SAID = "missed", "said"
log = logging.getLogger("subbyte")


def serve(path: Path, answers: TextIO) -> None:
    """Run the variants that are asked for until there are no more.

    Args:
        path: The run's folder.
        answers: Where answers go.
    """

    def answer(line: str) -> None:
        print(" ".join(line.split()), file=answers, flush=True)

    @contextmanager
    def alone() -> Iterator[None]:
        answer(MEASURE)
        if sys.stdin.readline().strip() != GO:
            raise KeyboardInterrupt  # whoever asked is gone
        try:
            yield
        finally:
            answer(MEASURED)

    folder, ctrl_c, setup = RunFolder(path), CtrlC(), None
    progress = Interruptible(Lines(lambda line: answer(f"{SAID} {line}")), ctrl_c)
    with ctrl_c.watched(), log_to(path / "run.log"):
        for line in iter(sys.stdin.readline, ""):
            name = line.strip()
            try:
                if setup is None:
                    setup = set_up(load(str(path / EXPERIMENT)), (name,), progress)
                experiment = setup.experiment
                run_variant(experiment, name, folder, setup=setup, progress=progress, alone=alone)
            except SubbyteError as error:
                log.error("%s: %s", name, error)
                answer(f"{MISSED if isinstance(error, BudgetMissedError) else FAILED} {error}")
            except Exception as error:
                log.exception("%s", name)
                answer(f"{FAILED} a fault of subbyte's own, see run.log: {error!r}")
            else:
                answer(DONE)


def main() -> None:
    """Serve, with whatever a library prints on standard error instead of standard output."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        serve(Path(sys.argv[1]), answers)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
