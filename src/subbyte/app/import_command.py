"""The command `subbyte import`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from subbyte.app.guard import guarded
from subbyte.app.options import Settings
from subbyte.errors import SubbyteError

if TYPE_CHECKING:
    from subbyte.app.distiller.importing import Imported

File = Annotated[Path | None, typer.Argument(help="A YAML file of Distiller.")]
Out = Annotated[Path | None, typer.Option(help="The YAML file to write.")]
Options = Annotated[str | None, typer.Option(help="Options of Distiller's compress_classifier.py.")]


app = typer.Typer()


@app.command("import")
def import_configuration(
    file: File = None, out: Out = None, options: Options = None, settings: Settings = None
) -> None:
    """Translate a configuration of Distiller into an experiment.

    Example: subbyte import ptq.yaml --set model.name=resnet18 --out mine.yaml
    """
    with guarded():
        text = import_to(file, options, settings or [], out)
        typer.echo(f"{out}: subbyte run takes it" if out else text)


def import_to(
    file: Path | None, options: str | None, settings: Sequence[str], out: Path | None
) -> str:
    """Write what a configuration means as an experiment.

    Args:
        file: The YAML file of Distiller's.
        options: Those of its command line.
        settings: `KEY=VALUE` of the experiment.
        out: The file to write; `None`: nothing is written.

    Returns:
        The experiment as YAML.

    Raises:
        SubbyteError: As `imported`; there is neither a file nor options; `out` cannot be written.
    """
    from subbyte.app.arguments import check_output
    from subbyte.app.distiller.importing import written
    from subbyte.app.experiment import sections_of
    from subbyte.utils import files

    if out is not None:
        check_output(out)
    sections = sections_of(settings)
    text = written(_imported(file, options, sections))
    if out is not None:
        files.write_text(out, text)
    return text


def _imported(file: Path | None, options: str | None, sections: dict[str, Any]) -> Imported:
    from subbyte.app.distiller.config import is_configuration
    from subbyte.app.distiller.importing import imported, imported_options
    from subbyte.app.distiller.options import read_options
    from subbyte.app.experiment import read_yaml

    if file is None and options is None:
        raise SubbyteError("there is nothing to import: name a YAML file, or give --options")
    read = None if options is None else read_options(options)
    if read is not None and read.file is not None:
        if file is not None and Path(read.file) != file:
            raise SubbyteError(f"--qe-config-file names {read.file} beside {file}: name one file")
        file = Path(read.file)
    if file is None:
        assert read is not None
        return imported_options(read, sections)
    if read is not None and read.file is None and _says_how(options or ""):
        raise SubbyteError(
            "--options says how to quantize beside a file that does: leave one of them out"
        )
    if not file.is_file():
        raise SubbyteError(f"there is no file {file}: name a YAML file of Distiller's")
    raw = read_yaml(file)
    if not is_configuration(raw):
        raise SubbyteError(f"{file} has no section quantizers: name a YAML file of Distiller's")
    return imported(raw, file.resolve(), sections, read)


def _says_how(options: str) -> bool:
    beside = ("--qe-lapq", "--qe-coordinate-search", "--qe-calibration")
    return any(
        word.startswith("--qe-") and word.split("=")[0] not in beside for word in options.split()
    )
