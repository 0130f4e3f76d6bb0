"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Device = Annotated[str, typer.Option(help="Where PyTorch runs: cpu or cuda.")]
ModelName = Annotated[
    str, typer.Argument(help="A name (subbyte models), FILE.py:FUNCTION, FILE.onnx.")
]
Weights = Annotated[str | None, typer.Option("--pretrained", help="Published weights by name.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A local file with the float weights.")]
CheckpointKey = Annotated[
    str | None, typer.Option(help="Where in that file they are, as ema.module.")
]
Classes = Annotated[int | None, typer.Option("--num-classes", help="Outputs of the model.")]
RuntimeName = Annotated[
    str | None, typer.Option("--runtime", help="As onnxruntime or openvino (subbyte targets).")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Overrides one key.")
]
OutputsYaml = Annotated[
    str | None,
    typer.Option("--outputs", metavar="YAML", help="As '{form: decoded}', or a YAML file."),
]
MaxDrop = Annotated[
    float | None, typer.Option(help="Points: search for the smallest variant that loses no more.")
]
