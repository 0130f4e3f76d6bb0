"""The command `subbyte diagnose`: which layers the error of one quantized model comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from subbyte.app.guard import guarded, progress_of
from subbyte.app.options import (
    Checkpoint,
    CheckpointKey,
    Classes,
    Device,
    Json,
    ModelName,
    Quiet,
    Weights,
)
from subbyte.app.printing import print_json, print_table

if TYPE_CHECKING:
    from rich.table import Table

    from subbyte.diagnosis.result import Diagnosis, LayerErrors

app = typer.Typer()


@app.command()
def diagnose(
    model: ModelName,
    quantized: Annotated[Path, typer.Argument(help="What subbyte quantize has written.")],
    data: Annotated[str, typer.Option(help="Folder of images, or digits, digit-scenes.")],
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    num_classes: Classes = None,
    images: Annotated[int, typer.Option(min=1, help="How many images at most.")] = 32,
    alone_images: Annotated[
        int, typer.Option(min=0, help="On how many of them each layer is quantized alone.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of images.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what each layer of a quantized model loses, and say what usually helps.

    Example: subbyte diagnose digits digits.safetensors --data digits
    """
    with guarded():
        from subbyte import models
        from subbyte.app import arguments

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, num_classes)
        models.check(config)
        arguments.check_quantized(quantized)
        arguments.check_calibration(data)
        from subbyte.app import diagnosing

        asked = {"images": images, "seed": seed, "batch_size": images}
        progress = progress_of(as_json or quiet)
        found = diagnosing.diagnose_saved(
            config, quantized, data, asked, alone_images, device, progress
        )
        if as_json:
            print_json(found.as_dict())
        elif not quiet:
            print_table(table_of(found))
            typer.echo("\n".join(sentences_of(found)))


def sentences_of(found: Diagnosis) -> list[str]:
    """What is wrong, and what usually helps."""
    said = [found.summary]
    for advice in found.advice:
        said.append(f"{advice.sentence}; what usually helps: {advice.helps}")
        said += [f"  {advice.overrides}"] if advice.overrides else []
    return said


def table_of(found: Diagnosis) -> Table:
    """A row for each layer, in the order of the network."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        caption=(
            "SQNR in dB: own, at what the layer gives, and alone, at the model's outputs, when it "
            "alone is quantized; added up, at what it gives, when everything is; share: of what "
            "all layers add alone"
        ),
        caption_justify="left",
    )
    for name in ("layer", "kind", "bits"):
        table.add_column(name, no_wrap=True)
    for name in ("own", "alone", "share", "added up"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(*map(escape, _cells(layer)))
    return table


def _cells(layer: LayerErrors) -> list[str]:
    from subbyte.diagnosis.errors import decibels

    bits = [f"w{layer.weight.bits}"] if layer.weight is not None else []
    bits += sorted({f"a{tensor.bits}" for tensor in layer.activations})
    errors = (layer.own_error, layer.alone_error, layer.accumulated_error)
    own, alone, added = ("–" if (db := decibels(x)) is None else f"{db:.1f}" for x in errors)
    share = "–" if layer.alone_share is None else f"{layer.alone_share:.0%}"
    return [layer.layer, layer.kind, "".join(bits) or "float", own, alone, share, added]
