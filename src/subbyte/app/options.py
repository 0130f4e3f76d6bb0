"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Named = Annotated[
    str,
    typer.Argument(
        metavar="NAME_OR_YAML",
        help="A built-in experiment (subbyte experiments), or a YAML file.",
    ),
]
Only = Annotated[list[str] | None, typer.Option(help="Take only this variant; repeatable.")]
Device = Annotated[str, typer.Option(help="Where PyTorch runs: cpu or cuda.")]
OtherDevice = Annotated[
    str | None, typer.Option("--device", help="Where PyTorch runs: cpu or cuda.")
]
ModelName = Annotated[
    str, typer.Argument(help="A name (subbyte models), FILE.py:FUNCTION or FILE.onnx.")
]
Weights = Annotated[str | None, typer.Option("--pretrained", help="The name of published weights.")]
Checkpoint = Annotated[Path | None, typer.Option(help="A file with the float weights.")]
CheckpointKey = Annotated[
    str | None, typer.Option(help="The key of the weights in that file, as ema.module.")
]
Classes = Annotated[
    int | None, typer.Option("--num-classes", help="How many classes the model has.")
]
Calibration = Annotated[
    str, typer.Option(help="Folder of images, or bundled ones: digits, digit-scenes.")
]
Images = Annotated[int, typer.Option(min=1, help="How many calibration images to use.")]
BatchSize = Annotated[int, typer.Option(min=1, help="How many images a batch has.")]
RuntimeName = Annotated[
    str | None,
    typer.Option("--runtime", help="Where the file runs, as openvino (subbyte targets)."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one key; repeatable.")
]
PreprocessingYaml = Annotated[
    str | None,
    typer.Option(
        "--preprocessing", metavar="YAML", help="Of images, as '{resize: 256, crop: 224}'."
    ),
]
OutputsYaml = Annotated[
    str | None,
    typer.Option(
        "--outputs", metavar="YAML", help="Of a raw network, as '{form: decoded}', or a file."
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option("--classes", help="A file with one class a line, or imagenet."),
]
MaxDrop = Annotated[
    float | None,
    typer.Option(help="Search for the smallest file that loses at most so many points."),
]
