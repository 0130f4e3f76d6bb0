"""The command `subbyte targets`."""

from __future__ import annotations

from typing import Any

import typer

from subbyte.app.guard import guarded
from subbyte.app.options import Json
from subbyte.app.printing import print_json

app = typer.Typer()


@app.command("targets")
def list_targets(as_json: Json = False) -> None:
    """List the targets: what each can represent, what is installed, what runs here.

    Example: subbyte targets
    """
    with guarded():
        from subbyte.targets.listing import listed

        found = listed()
        if as_json:
            print_json(found)
        else:
            typer.echo("\n\n".join(described(target) for target in found))


def described(target: dict[str, Any]) -> str:
    """A target in a few lines of text."""
    here = "runs here" if target["runs_here"] else "does not run here"
    state = here if target["installed"] is None else f"{here}, {target['installed']}"
    lines = [f"{target['name']}: {target['title']} ({target['suffix']}); {state}"]
    lines += [f"  {key}: {target[key]}" for key in ("weights", "activations", "layers")]
    lines.append(f"  detectors: {target['detectors']}")
    if target["note"]:
        lines.append(f"  {target['note']}")
    return "\n".join(lines)
