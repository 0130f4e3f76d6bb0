"""The command line: each command reads its arguments, calls one function, and prints.

A command imports what it needs: first what reads and checks its arguments, which takes a fraction
of a second, and only then what imports PyTorch, which takes seconds.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from subbyte.app import import_command
from subbyte.app.options import (
    Checkpoint,
    CheckpointKey,
    Classes,
    Device,
    Json,
    ModelName,
    Quiet,
    RuntimeName,
    Settings,
    Weights,
)
from subbyte.app.printing import print_json, print_notes, print_table
from subbyte.errors import SubbyteError
from subbyte.utils.collector import importing
from subbyte.utils.cores import limit_openmp, usable
from subbyte.utils.interrupt import CtrlC, Interruptible
from subbyte.utils.progress import Progress, Silent
from subbyte.version import __version__

OK, FAULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
CTRL_C = CtrlC()

app = typer.Typer(
    name="subbyte",
    help="Quantize classifiers and detectors from 8 bits down to 2, with proof in the runtimes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"subbyte {__version__}")
        raise typer.Exit(OK)


@app.command()
def run(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_YAML", help="An experiment.")],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/NAME/TIME).")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run just this variant.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment: float and each variant, simulated and in the runtimes.

    Example: subbyte run digits --set variants.w4a4.ranges=minmax --out runs/try
    """
    with _guarded():
        from subbyte.app import arguments, experiment

        chosen = [*(settings or []), *([f"device={device}"] if device else [])]
        loaded = experiment.load(name, chosen)
        arguments.check_experiment(loaded, only or ())
        with importing():
            from subbyte.app import runner
            from subbyte.app.report.tables import run_table

        folder, results = runner.run(
            loaded,
            out,
            only=tuple(only or ()),
            resume=resume,
            progress=_progress(as_json or quiet),
        )
        if as_json:
            print_json(results)
        elif not quiet:
            print_table(run_table(results))
            typer.echo(f"{folder}/results.json")


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_YAML", help="An experiment.")],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: trained/NAME).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an SSD on images with boxes; the folder is a model.checkpoint.

    Example: subbyte train bccd.yaml --set training.epochs=20 --out trained/bccd
    """
    with _guarded():
        from subbyte.app import arguments, experiment

        chosen = [*(settings or []), *([f"training.device={device}"] if device else [])]
        asked = experiment.load_training(name, chosen)
        arguments.check_training(asked)
        from subbyte.training import parallel
        from subbyte.training import run as training

        trained = training.run(asked, out, resume=resume, progress=_progress(as_json or quiet))
        if not parallel.is_first():
            return
        if as_json:
            print_json(asdict(trained) | {"folder": str(trained.folder)})
        elif not quiet:
            found = ", ".join(f"{key} {value:.3f}" for key, value in trained.metrics.items())
            typer.echo(f"{trained.folder}: {found}")
            print_notes(trained.notes)


@app.command()
def quantize(
    model: ModelName,
    calibration: Annotated[
        str, typer.Option(help="Folder of images, or bundled ones: digits, digit-scenes.")
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    num_classes: Classes = None,
    bits: Annotated[str, typer.Option(help="Bits as w8a8, w4a4, …")] = "w8a8",
    settings: Settings = None,
    preprocessing: Annotated[
        str | None,
        typer.Option(metavar="YAML", help="As '{resize: 256, crop: 224}' (default: the model's)."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Calibration images at most.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of the choice of images and the method.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize one model and save its grids; --set takes fields of a recipe.

    Example: subbyte quantize digits --calibration digits --bits w4a4 --out digits.safetensors
    """
    with _guarded():
        from subbyte import models
        from subbyte.app import arguments

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, num_classes)
        recipe = arguments.recipe_of(bits, settings or [], seed)
        prepared = arguments.preprocessing_of(preprocessing)
        arguments.check_output(out)
        models.check(config)
        arguments.check_calibration(calibration)
        from subbyte.app import commands

        rows, notes = commands.quantize_model(
            config,
            calibration,
            recipe,
            out,
            images=images,
            batch_size=batch_size,
            device=device,
            preprocessing=prepared,
            progress=_progress(as_json or quiet),
        )
        if as_json:
            print_json(rows)
        elif not quiet:
            typer.echo(f"{out}: {len(rows)} tensors are quantized")
            print_notes(notes)


@app.command()
def export(
    model: ModelName,
    quantized: Annotated[Path, typer.Argument(help="What subbyte quantize has written.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    num_classes: Classes = None,
    target: Annotated[
        str | None, typer.Option(help="The only runtime of the file, onnxruntime or openvino.")
    ] = None,
    postprocess: Annotated[
        bool, typer.Option(help="Of a detector: from images to boxes, or its raw outputs.")
    ] = True,
    quiet: Quiet = False,
) -> None:
    """Write a quantized model as ONNX, for ONNX Runtime and OpenVINO or, faster, for one of them.

    Example: subbyte export digits digits.safetensors --out digits.onnx --target openvino
    """
    with _guarded():
        from subbyte import models
        from subbyte.app import arguments

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, num_classes)
        arguments.check_target(target)
        models.check(config)
        arguments.check_quantized(quantized)
        from subbyte.app import commands

        commands.export_model(config, quantized, out, target, postprocess)
        if not quiet:
            typer.echo(f"{out}: {out.stat().st_size} bytes")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    data: Annotated[
        str, typer.Option(help="Class folders, a detector's data set, or digits, digit-scenes.")
    ],
    classes: Annotated[
        Path | None, typer.Option(help="File: one class folder a line; or imagenet.")
    ] = None,
    runtime: RuntimeName = "onnxruntime",
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an exported model on labelled images.

    Example: subbyte evaluate digits.onnx --data digits --runtime openvino
    """
    with _guarded():
        from subbyte.app import arguments

        arguments.check_onnx(model)
        arguments.check_runtime(runtime)
        from subbyte.app import commands

        result = commands.evaluate_model(
            model, data, classes, runtime, batch_size, _progress(as_json or quiet)
        )
        if as_json:
            print_json(result)
        elif not quiet:
            from subbyte.app.report.answers import evaluation

            typer.echo(f"{evaluation(result)} on {result['images']} images in {runtime}")
            print_notes(result["notes"])


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes or objects to show.")] = 5,
    runtime: RuntimeName = "onnxruntime",
    as_json: Json = False,
) -> None:
    """Classify images with an exported model, or find objects on them.

    Example: subbyte predict model.onnx cat.jpg dog.jpg --top 3
    """
    with _guarded():
        from subbyte.app import arguments

        arguments.check_onnx(model)
        arguments.check_images(images)
        arguments.check_runtime(runtime)
        from subbyte.app import commands

        predictions = commands.predict_images(model, images, top, runtime)
        if as_json:
            print_json(predictions)
        else:
            from subbyte.app.report.answers import predicted

            print_table(predicted(predictions))


@app.command()
def inspect(
    model: ModelName,
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    as_json: Json = False,
) -> None:
    """Run a model once: its inputs, outputs, layers and regions.

    Example: subbyte inspect detector.onnx
    """
    with _guarded():
        from subbyte.app import arguments, inspection

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, None)
        found = inspection.inspect_model(config)
        if as_json:
            print_json(found)
        else:
            typer.echo("\n".join(inspection.lines(found)))


@app.command("models")
def list_models(
    prefix: Annotated[str, typer.Argument(help="Only names that begin with this.")] = "",
    as_json: Json = False,
) -> None:
    """List the models that can be named; how many of timm's there are, unless asked for them.

    Example: subbyte models timm/resnet
    """
    with _guarded():
        from subbyte import models

        names = models.names(prefix)
        if as_json:
            print_json(names)
        else:
            from subbyte.app.report.answers import model_groups

            for line in model_groups(names, every=bool(prefix)):
                typer.echo(line)


@app.command("experiments")
def list_experiments(as_json: Json = False) -> None:
    """List the built-in experiments.

    Example: subbyte experiments
    """
    with _guarded():
        from subbyte.app import experiment

        names = {name: experiment.summary(path) for name, path in experiment.builtin().items()}
        if as_json:
            print_json(names)
        else:
            for name, summary in names.items():
                typer.echo(f"{name}: {summary}")


def main() -> None:
    """The entry point of the command `subbyte`."""
    limit_openmp(os.environ, usable())
    app()


@contextmanager
def _guarded() -> Iterator[None]:
    """Faults as exit codes: bad input is one sentence on standard error, and nothing else."""
    try:
        with CTRL_C.watched():
            yield
    except SubbyteError as error:
        typer.echo(" ".join(str(error).split()), err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; what is finished is kept", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception:
        typer.echo(
            f"a fault of subbyte's own, please report it:\n{traceback.format_exc()}", err=True
        )
        raise typer.Exit(FAULT) from None


def _progress(silent: bool) -> Progress:
    if silent:
        return Interruptible(Silent(), CTRL_C)
    from subbyte.utils.bars import Bars

    return Interruptible(Bars(), CTRL_C)


import_command.register(app, _guarded)
