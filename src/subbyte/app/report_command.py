"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from subbyte.app.guard import guarded
from subbyte.app.options import Quiet

app = typer.Typer()


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page (default: DIR/report.html, of several runs report.html)."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the page that shows runs, one or several side by side, from their folders alone.

    Example: subbyte report runs/digits/main --open
    """
    with guarded():
        from subbyte.app.report.page.rendering import PAGE, open_page, write_page

        path = out or (folders[0] / PAGE if len(folders) == 1 else Path(PAGE))
        write_page(folders, path)
        if not quiet:
            typer.echo(path)
        if show:
            open_page(path)
