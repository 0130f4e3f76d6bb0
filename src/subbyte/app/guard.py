"""What every command runs in: exit codes, Ctrl-C and what shows how far it is."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.utils.interrupt import CtrlC, Interruptible
from subbyte.utils.progress import Progress, Silent

OK, FAULT, BAD_INPUT, MISSED, INTERRUPTED = 0, 1, 2, 3, 130
FELL = 1  # of `compare`: a metric fell by more than was allowed
CTRL_C = CtrlC()


@contextmanager
def guarded() -> Iterator[None]:
    """Faults as exit codes: bad input is one sentence on standard error, and nothing else."""
    try:
        with CTRL_C.watched():
            yield
    except SubbyteError as error:
        typer.echo(" ".join(str(error).split()), err=True)
        raise typer.Exit(MISSED if isinstance(error, BudgetMissedError) else BAD_INPUT) from None
    except KeyboardInterrupt as interrupt:
        said = " ".join(map(str, interrupt.args)) or "interrupted; what is finished is kept"
        typer.echo(said, err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):  # the last: who reads, as `head`, is gone
        raise
    except Exception:
        typer.echo(
            f"a fault of subbyte's own, please report it:\n{traceback.format_exc()}", err=True
        )
        raise typer.Exit(FAULT) from None


def told(silent: bool) -> Callable[[str], None]:
    """What takes a sentence for whoever waits: it goes to standard error, or nowhere."""
    return (lambda _: None) if silent else (lambda sentence: typer.echo(sentence, err=True))


def progress_of(silent: bool) -> Progress:
    """Bars in a terminal, lines where there is none, or nothing."""
    if silent:
        return Interruptible(Silent(), CTRL_C)
    from subbyte.utils.bars import shown

    return Interruptible(shown(), CTRL_C)
