"""Options of `run` that say where variants run: in processes of this machine, or on a cluster."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subbyte.app.guard import FAULT, MISSED
from subbyte.errors import SubbyteError

if TYPE_CHECKING:
    from subbyte.app.runner import Elsewhere

TIMEOUT = 5.0  # seconds that a cluster has to answer
HERE = ("local", "auto")  # a cluster of this machine's own, and the one that Ray finds

Workers = Annotated[int, typer.Option(min=1, help="How many processes share the variants.")]
Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster: HOST:PORT, auto or local."),
]


def check_elsewhere(workers: int, ray: str | None) -> None:
    """Refuse a cluster that does not answer.

    Args:
        workers: How many processes of this machine are asked for.
        ray: The address of a cluster.

    Raises:
        SubbyteError: It does not, or Ray is not installed, or both are asked for.
    """
    if ray is None:
        return
    if workers > 1:
        raise SubbyteError(
            "--workers and --ray exclude each other: a cluster decides itself how many variants "
            "run at a time"
        )
    if find_spec("ray") is None:
        raise SubbyteError("--ray needs Ray: pip install 'subbyte[ray]'")
    if ray in HERE:
        return
    host, colon, port = ray.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise SubbyteError(f"--ray is '{ray}': give HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise SubbyteError(
            f"nothing answers at the Ray address {ray} ({error}): start a cluster with `ray start "
            "--head`, or give its address"
        ) from None


def elsewhere(workers: int, ray: str | None, tell: Callable[[str], None]) -> Elsewhere | None:
    """What runs variants in other processes; `None`: this one does.

    Args:
        workers: How many processes of this machine.
        ray: The address of a cluster.
        tell: Takes the lines that say how far processes are.
    """
    if ray is not None:
        from subbyte.app.on_ray import on_cluster

        return on_cluster(ray)
    if workers > 1:
        from subbyte.app.workers import in_processes

        return in_processes(workers, tell)
    return None


def end_with(results: Mapping[str, Any], folder: Path, only: Sequence[str]) -> None:
    """Where variants came to nothing, say why and end with an exit code.

    It is that of a search without a result, where there is nothing else, and that of a fault.

    Args:
        results: As in `results.json`.
        folder: The run's.
        only: The names of the variants that were asked for; empty: all.
    """
    from subbyte.app.run_folder import command_to_resume

    errors = results["errors"]
    if not errors:
        return
    for name, error in errors.items():
        typer.echo(f"{name} is not finished: {error}", err=True)
    typer.echo(f"this does what is missing: {command_to_resume(folder, only)}", err=True)
    raise typer.Exit(MISSED if set(errors) == set(results["missed"]) else FAULT)
