"""The command `subbyte inspect`: what a model takes and gives, and which layers it has."""

from __future__ import annotations

import typer

from subbyte.app.guard import guarded
from subbyte.app.options import (
    Checkpoint,
    CheckpointKey,
    Json,
    ModelName,
    OutputsYaml,
    PreprocessingYaml,
    Weights,
)
from subbyte.app.printing import print_json

app = typer.Typer()


@app.command()
def inspect(
    model: ModelName,
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    preprocessing: PreprocessingYaml = None,
    outputs: OutputsYaml = None,
    as_json: Json = False,
) -> None:
    """Print the inputs, outputs, layers and regions of a model.

    Example: subbyte inspect detector.onnx
    """
    with guarded():
        from subbyte.app import arguments, inspection, raw_option

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, None)
        prepared = arguments.preprocessing_of(preprocessing)
        config = raw_option.with_outputs(config, outputs, prepared)
        found = inspection.inspect_model(config, prepared)
        if as_json:
            print_json(found)
        else:
            typer.echo("\n".join(inspection.lines(found)))
