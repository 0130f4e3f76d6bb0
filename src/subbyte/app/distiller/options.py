"""The options of Distiller's `compress_classifier.py` for quantization after training."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, field
from typing import Any, NoReturn

from subbyte.errors import SubbyteError, unknown

MODES = {
    "sym": "SYMMETRIC",
    "sym_restr": "SYMMETRIC_RESTRICTED",
    "asym_s": "ASYMMETRIC_SIGNED",
    "asym_u": "ASYMMETRIC_UNSIGNED",
}
CLIPS = ("none", "avg", "n_std", "gauss", "laplace")
STARTS = ("NONE", "AVG", "GAUSS", "LAPLACE", "L1", "L2", "L3")
REFUSED = {
    "qe_dynamic": "--qe-dynamic is not supported: ranges are chosen once, on calibration images",
    "qe_convert_pytorch": "--qe-convert-pytorch is not supported: files are ONNX",
    "qe_pytorch_backend": "--qe-pytorch-backend is not supported: files are ONNX",
    "lapq_basinhopping": "--lapq-basinhopping is not supported: the search is Powell's alone",
    "lapq_basinhopping_niter": "--lapq-basinhopping-niter is not supported: the search is Powell's "
    "alone",
}


@dataclass(frozen=True)
class Lapq:
    """What the options of LAPQ mean.

    Attributes:
        clip: The clip of the grids at the start.
        rule: The range rule at the start, in its place.
        search: "scale" or "clip".
        rounds: Of Powell's search.
        evaluations: Of the loss.
        share: Of the evaluation images, how many are looked at.
        lines: (option, what became of it).
    """

    clip: str = "none"
    rule: dict[str, Any] | None = None
    search: str = "scale"
    rounds: int | None = None
    evaluations: int | None = None
    share: float | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What a command line means.

    Attributes:
        text: The options as they were given.
        keys: The keys of a quantizer, as a file has them.
        calibration: Portion of the evaluation images to calibrate with.
        lapq: Of LAPQ; `None`: it is not asked for.
        file: `--qe-config-file`.
        sections: `model` and `data`, as far as the command line names them.
    """

    text: str
    keys: dict[str, Any]
    calibration: float | None = None
    lapq: Lapq | None = None
    file: str | None = None
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SubbyteError(f"--options: {message}")


def read_options(text: str) -> Options:
    """The options in a text.

    Raises:
        SubbyteError: One is unknown, wrong, or is not supported, and is named.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SubbyteError(
            f"--options cannot be read ({error}): close all quotation marks"
        ) from None
    parser = _parser()
    given, strange = parser.parse_known_args(words)
    known = [name for action in parser._actions for name in action.option_strings]
    for word in strange:
        if word.startswith("-"):
            raise SubbyteError(f"--options: {unknown('option', word.split('=')[0], known)}")
        raise SubbyteError(
            f"--options: '{word}' belongs to no option: name the images' folder once"
        )
    for name, sentence in REFUSED.items():
        if getattr(given, name) not in (None, False):
            raise SubbyteError(sentence)
    if given.qe_config_file is not None:
        also = [w for w in words if w.startswith("--qe") and w.split("=")[0] not in BESIDE_A_FILE]
        if also:
            raise SubbyteError(
                f"--qe-config-file takes the place of {also[0]}: leave one of them out"
            )
    keys = {} if given.qe_config_file is not None else _keys(given)
    sections: dict[str, dict[str, Any]] = {}
    if given.arch is not None:
        sections["model"] = {"name": given.arch}
        if given.pretrained:
            sections["model"]["weights"] = "DEFAULT"
    if given.data is not None:
        sections["data"] = {"root": given.data}
    return Options(text, keys, given.qe_calibration, _lapq(given), given.qe_config_file, sections)


BESIDE_A_FILE = (
    "--qe-config-file",
    "--quantize-eval",
    "--qe",
    "--qe-calibration",
    "--qe-lapq",
    "--qe-coordinate-search",
)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("data", nargs="?")
    add("--arch", "-a")
    add("--pretrained", action="store_true")
    # What these say does not change what is computed.
    for names in (
        ["--evaluate", "--eval", "-e"],
        ["--quantize-eval", "--qe"],
        ["--deterministic", "--det"],
    ):
        add(*names, action="store_true")
    for names in (["--batch-size", "-b"], ["--workers", "-j"], ["--print-freq", "-p"]):
        add(*names, type=int)
    add("--qe-mode", "--qem", choices=MODES, default="sym")
    add("--qe-mode-acts", "--qema", choices=MODES)
    add("--qe-mode-wts", "--qemw", choices=MODES)
    add("--qe-bits-acts", "--qeba", type=int, default=8)
    add("--qe-bits-wts", "--qebw", type=int, default=8)
    add("--qe-bits-accum", type=int, default=32)
    add("--qe-clip-acts", "--qeca", choices=CLIPS, default="none")
    add("--qe-clip-n-stds", type=float)
    add("--qe-no-clip-layers", "--qencl", nargs="+", default=[])
    add("--qe-no-quant-layers", "--qenql", nargs="+", default=[])
    add("--qe-per-channel", "--qepc", action="store_true")
    add("--qe-scale-approx-bits", "--qesab", type=int)
    add("--qe-save-fp-weights", action="store_true")
    add("--qe-convert-pytorch", "--qept", action="store_true")
    add("--qe-pytorch-backend")
    add("--qe-stats-file")
    add("--qe-dynamic", action="store_true")
    add("--qe-calibration", type=_share)
    add("--qe-config-file")
    add("--qe-lapq", "--qe-coordinate-search", action="store_true")
    add("--lapq-maxiter", type=int)
    add("--lapq-maxfev", type=int)
    add("--lapq-method", default="Powell")
    add("--lapq-basinhopping", "--lapq-bh", action="store_true")
    add("--lapq-basinhopping-niter", "--lapq-bh-niter", type=int)
    add("--lapq-init-mode", type=str.upper, choices=STARTS)
    add("--lapq-init-method", default="Powell")
    add("--lapq-eval-size", type=_share)
    add("--lapq-eval-memoize-dataloader", action="store_true")
    add("--lapq-search-clipping", action="store_true")
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a share of the images: give a number above 0, up to 1"
        )
    return value


def _keys(given: argparse.Namespace) -> dict[str, Any]:
    """The keys that a file would have."""
    overrides: dict[str, dict[str, Any]] = {
        name: {"bits_activations": None, "bits_weights": None} for name in given.qe_no_quant_layers
    }
    for name in given.qe_no_clip_layers:
        overrides.setdefault(name, {"clip_acts": "NONE"})
    optional = {
        "clip_n_stds": given.qe_clip_n_stds,
        "scale_approx_mult_bits": given.qe_scale_approx_bits,
        "model_activation_stats": given.qe_stats_file,
    }
    return {
        "bits_activations": given.qe_bits_acts or None,
        "bits_parameters": given.qe_bits_wts or None,
        "bits_accum": given.qe_bits_accum,
        "mode": {
            "activations": MODES[given.qe_mode_acts or given.qe_mode],
            "weights": MODES[given.qe_mode_wts or given.qe_mode],
        },
        "clip_acts": given.qe_clip_acts.upper(),
        "per_channel_wts": given.qe_per_channel,
        "overrides": overrides,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _lapq(given: argparse.Namespace) -> Lapq | None:
    own = [name for name, value in vars(given).items() if name.startswith("lapq_") and value]
    own = [name for name in own if name not in ("lapq_method", "lapq_init_method")]
    for name in ("lapq_method", "lapq_init_method"):
        if getattr(given, name).lower() != "powell":
            option = "--" + name.replace("_", "-")
            raise SubbyteError(
                f"{option} {getattr(given, name)} is not supported: the search is Powell's"
            )
    if not given.qe_lapq:
        if own:
            option = "--" + own[0].replace("_", "-")
            raise SubbyteError(f"{option} is of LAPQ, which --qe-lapq asks for: give it as well")
        return None
    start = given.lapq_init_mode or "NONE"
    lines = [("--qe-lapq", "method: lapq")]
    rule = None
    if start in ("L1", "L2", "L3"):
        rule = {"name": "lp", "p": int(start[1])}
        lines.append(
            (f"--lapq-init-mode {start}", f"start and the grids: the least |error|^{start[1]}")
        )
    else:
        lines.append((f"--lapq-init-mode {start}", "clip of the grids"))
    search = "clip" if given.lapq_search_clipping else "scale"
    if given.lapq_search_clipping:
        lines.append(("--lapq-search-clipping", "search: clip"))
    if given.lapq_maxiter is not None:
        lines.append((f"--lapq-maxiter {given.lapq_maxiter}", "rounds"))
    if given.lapq_maxfev is not None:
        lines.append((f"--lapq-maxfev {given.lapq_maxfev}", "max_evaluations"))
    if given.lapq_eval_size is not None:
        said = "images, as many of the calibration images: none that is evaluated is looked at"
        lines.append((f"--lapq-eval-size {given.lapq_eval_size}", said))
    if given.lapq_eval_memoize_dataloader:
        lines.append(("--lapq-eval-memoize-dataloader", "images are decoded once in any case"))
    return Lapq(
        start.lower() if rule is None else "none",
        rule,
        search,
        given.lapq_maxiter,
        given.lapq_maxfev,
        given.lapq_eval_size,
        lines,
    )
