"""The command `subbyte sensitivity`: what each layer of one model loses at each width."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from subbyte.app.guard import guarded, progress_of
from subbyte.app.options import (
    BatchSize,
    Calibration,
    Checkpoint,
    CheckpointKey,
    Classes,
    Device,
    Images,
    Json,
    ModelName,
    OutputsYaml,
    PreprocessingYaml,
    Quiet,
    Weights,
)
from subbyte.app.printing import print_json, print_notes, print_table
from subbyte.errors import SubbyteError

app = typer.Typer()


@app.command()
def sensitivity(
    model: ModelName,
    calibration: Calibration,
    out: Annotated[Path | None, typer.Option(help="The .csv file to write.")] = None,
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    num_classes: Classes = None,
    preprocessing: PreprocessingYaml = None,
    outputs: OutputsYaml = None,
    widths: Annotated[str, typer.Option(help="Bits of weights to try.")] = "2,3,4,5,6,8",
    activations: Annotated[str, typer.Option(help="Bits of activations to try.")] = "8",
    images: Images = 512,
    batch_size: BatchSize = 64,
    seed: Annotated[int, typer.Option(min=0, help="Decides which images are drawn.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what each layer loses at each width. It names the layers to protect.

    Example: subbyte sensitivity digits --calibration digits --out digits.csv
    """
    with guarded():
        from subbyte import models
        from subbyte.app import arguments, raw_option

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, num_classes)
        prepared = arguments.preprocessing_of(preprocessing)
        config = raw_option.with_outputs(config, outputs, prepared)
        chosen = {"weights": widths_of(widths), "activations": widths_of(activations)}
        if out is not None:
            arguments.check_output(out)
        models.check(config)
        arguments.check_calibration(calibration)
        from subbyte.app import sensitivities

        measured, notes = sensitivities.measure_model(
            config,
            calibration,
            chosen,
            images=images,
            batch_size=batch_size,
            seed=seed,
            device=device,
            preprocessing=prepared,
            progress=progress_of(as_json or quiet),
        )
        if out is not None:
            sensitivities.write_csv(out, measured)
        if as_json:
            print_json(measured.as_dict())
        elif not quiet:
            print_table(sensitivities.table(measured))
            typer.echo(sensitivities.advice(measured))
            print_notes(notes)


def widths_of(text: str) -> tuple[int, ...]:
    """The widths in a text as "2,4,8"; `SubbyteError` where they are none."""
    if not re.fullmatch(r"[2-8](,[2-8])*", text):
        raise SubbyteError(f"'{text}' are not widths: write 2 to 8 with commas between, as 2,4,8")
    return tuple(sorted({int(bits) for bits in text.split(",")}))
