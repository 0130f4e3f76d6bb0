"""What commands print on standard output."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import typer

from subbyte.utils.files import finite

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 120  # of tables where there is no terminal


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)


def print_notes(notes: list[str]) -> None:
    """Print notes, a line each."""
    for note in notes:
        typer.echo(f"note: {note}")


def print_json(value: Any) -> None:
    """Print a value as JSON; NaN and infinity, which JSON lacks, become null."""
    sys.stdout.write(json.dumps(finite(value), indent=2) + "\n")
