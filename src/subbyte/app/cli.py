"""The command line: each command reads its arguments, calls one function, and prints.

A command imports what it needs: first what reads and checks its arguments, which takes a fraction
of a second, and only then what imports PyTorch, which takes seconds.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from subbyte.app import (
    compare_command,
    diagnose_command,
    import_command,
    inspect_command,
    report_command,
    sensitivity_command,
    targets_command,
)
from subbyte.app.elsewhere import Ray, Workers, check_elsewhere, elsewhere, end_with
from subbyte.app.guard import OK, told
from subbyte.app.guard import guarded as _guarded
from subbyte.app.guard import progress_of as _progress
from subbyte.app.options import (
    BatchSize,
    Calibration,
    Checkpoint,
    CheckpointKey,
    Classes,
    ClassesFile,
    Device,
    Images,
    Json,
    MaxDrop,
    ModelName,
    Named,
    Only,
    OtherDevice,
    OutputsYaml,
    PreprocessingYaml,
    Quiet,
    RuntimeName,
    Settings,
    Weights,
)
from subbyte.app.printing import print_json, print_notes, print_table
from subbyte.errors import BudgetMissedError
from subbyte.utils.collector import importing
from subbyte.utils.cores import limit_openmp, usable
from subbyte.version import __version__

app = typer.Typer(
    name="subbyte",
    help="Quantize classifiers and detectors to 8 to 2 bits, and measure the files.",
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
    name: Named,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/NAME/TIME).")] = None,
    only: Only = None,
    max_drop: MaxDrop = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished.")] = False,
    device: OtherDevice = None,
    workers: Workers = 1,
    ray: Ray = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize and measure the variants of an experiment.

    Example: subbyte run digits --set variants.w4a4.ranges=minmax --out runs/try
    """
    with _guarded():
        from subbyte.app import arguments, experiment

        chosen = [*(settings or []), *([f"device={device}"] if device else [])]
        if max_drop is not None:
            chosen.insert(0, f"variants.{arguments.SEARCHED}.search.max_drop={max_drop}")
            only = arguments.with_search(only)
        loaded = experiment.load(name, chosen)
        arguments.check_experiment(loaded, only or ())
        check_elsewhere(workers, ray)
        with importing():
            from subbyte.app import runner
            from subbyte.app.report.tables import run_table, searches_missed

        folder, results = runner.run(
            loaded,
            out,
            only=tuple(only or ()),
            resume=resume,
            progress=_progress(as_json or quiet),
            tell=told(as_json or quiet),
            elsewhere=elsewhere(workers, ray, told(as_json or quiet)),
        )
        if as_json:
            print_json(results)
        elif not quiet:
            print_table(run_table(results))
            typer.echo(f"{folder}/report.html\n{folder}/results.json")
        end_with(results, folder, only or ())
        if missed := searches_missed(results):
            raise BudgetMissedError("; ".join(missed))


@app.command()
def train(
    name: Named,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder (default: trained/NAME).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training.")] = False,
    device: OtherDevice = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an SSD on images with boxes. The folder that it writes is a model.checkpoint.

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
    calibration: Calibration,
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    num_classes: Classes = None,
    bits: Annotated[str, typer.Option(help="Of weights and activations.")] = "w8a8",
    settings: Settings = None,
    preprocessing: PreprocessingYaml = None,
    outputs: OutputsYaml = None,
    images: Images = 512,
    batch_size: BatchSize = 64,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn at random.")] = 0,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Quantize one model, and save scales and integers. --set takes fields of a recipe.

    Example: subbyte quantize digits --calibration digits --bits w4a4 --out digits.safetensors
    """
    with _guarded():
        from subbyte import models
        from subbyte.app import arguments, raw_option

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, num_classes)
        recipe = arguments.recipe_of(bits, settings or [], seed)
        prepared = arguments.preprocessing_of(preprocessing)
        config = raw_option.with_outputs(config, outputs, prepared)
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
            tell=told(as_json or quiet),
        )
        if as_json:
            print_json(rows)
        elif not quiet:
            typer.echo(f"{out}: {len(rows)} tensors are quantized")
            print_notes(notes)


@app.command()
def export(
    model: ModelName,
    quantized: Annotated[Path, typer.Argument(help="The file that subbyte quantize wrote.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    pretrained: Weights = None,
    checkpoint: Checkpoint = None,
    checkpoint_key: CheckpointKey = None,
    num_classes: Classes = None,
    target: Annotated[
        str | None, typer.Option(help="What the file is for (subbyte targets).")
    ] = None,
    postprocess: Annotated[
        bool, typer.Option(help="Whether a detector's file gives boxes.")
    ] = True,
    classes: ClassesFile = None,
    preprocessing: PreprocessingYaml = None,
    quiet: Quiet = False,
) -> None:
    """Write a quantized model as ONNX, for ONNX Runtime and OpenVINO or, faster, for one target.

    Example: subbyte export digits digits.safetensors --out digits.onnx --target openvino
    """
    with _guarded():
        from subbyte import models
        from subbyte.app import arguments

        config = arguments.model_config(model, pretrained, checkpoint, checkpoint_key, num_classes)
        arguments.check_target(target)
        arguments.check_output(out)
        models.check(config)
        arguments.check_quantized(quantized)
        known = arguments.known_of_images(classes, preprocessing)
        from subbyte.app import commands

        notes = commands.export_model(config, quantized, out, target, postprocess, known)
        if not quiet:
            typer.echo(f"{out}: {out.stat().st_size} bytes")
            print_notes(list(notes))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A file of export.")],
    data: Annotated[
        str, typer.Option(help="Class folders, a detector's data set, digits or digit-scenes.")
    ],
    classes: ClassesFile = None,
    runtime: RuntimeName = None,
    batch_size: BatchSize = 64,
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

            typer.echo(f"{evaluation(result)} on {result['images']} images in {result['runtime']}")
            print_notes(result["notes"])


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A file of export.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes or objects to show.")] = 5,
    runtime: RuntimeName = None,
    as_json: Json = False,
) -> None:
    """Classify images or find objects, with an exported model.

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


app.add_typer(inspect_command.app)
app.add_typer(compare_command.app)
app.add_typer(report_command.app)
app.add_typer(sensitivity_command.app)
app.add_typer(diagnose_command.app)
app.add_typer(import_command.app)
app.add_typer(targets_command.app)


@app.command("models")
def list_models(
    prefix: Annotated[str, typer.Argument(help="List only names that begin with this.")] = "",
    as_json: Json = False,
) -> None:
    """List the models that have a name. Those of timm and other libraries need a prefix.

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
    if isinstance(sys.stdout, io.TextIOWrapper):  # whose encoding may lack signs, as in "a → b"
        sys.stdout.reconfigure(errors="replace")
    app()
