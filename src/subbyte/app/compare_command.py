"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subbyte.app.guard import FELL, guarded, progress_of
from subbyte.app.options import Json, Only, Quiet
from subbyte.app.printing import print_json, print_notes, print_table
from subbyte.errors import SubbyteError

if TYPE_CHECKING:
    from subbyte.app.compare import Row


app = typer.Typer()


@app.command()
def compare(
    before: Annotated[
        Path, typer.Argument(metavar="RUN", help="Before: a folder or results.json.")
    ],
    after: Annotated[Path, typer.Argument(metavar="RUN", help="After: a folder or results.json.")],
    max_drop: Annotated[
        float | None,
        typer.Option(help="End with exit code 1 where the metric fell by more points."),
    ] = None,
    only: Only = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two runs on the images that both evaluated.

    Example: subbyte compare runs/digits/main runs/digits/mine --max-drop 0.5
    """
    with guarded():
        if max_drop is not None and not 0 <= max_drop <= 100:
            raise SubbyteError(f"max-drop is {max_drop:g}: give points of the metric, 0 to 100")
        for path in (before, after):
            if not path.exists():
                raise SubbyteError(f"there is no run {path}: name its folder or its results.json")
        from subbyte.app import compare as comparing

        found = comparing.compare(before, after, tuple(only or ()), progress_of(as_json or quiet))
        fallen = [] if max_drop is None else found.fallen(max_drop)
        lost = [note for note in found.notes if note.endswith("is in the first run alone")]
        if as_json:
            print_json({**found.as_dict(), "max_drop": max_drop, "fell": bool(fallen)})
        elif not quiet:
            from subbyte.app.report.compared import compared_table

            print_table(compared_table(found))
            print_notes(list(found.notes))
        if max_drop is not None and lost:
            raise SubbyteError(f"{'; '.join(lost)}: nothing tells whether it fell")
        if fallen:
            typer.echo(
                "; ".join(_fell(row) for row in fallen) + f": more than {max_drop:g}", err=True
            )
            raise typer.Exit(FELL)


def _fell(row: Row) -> str:
    """How far a metric fell, in points."""
    return f"{row.metric} of {row.variant} in {row.run_in} fell by {-100 * row.change:.2f} points"
