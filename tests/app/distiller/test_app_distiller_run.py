"""A file of Distiller's with every key runs as it is, as an experiment written by hand does."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from subbyte.app import experiment, runner
from subbyte.app.import_command import import_to
from subbyte.errors import SubbyteError

# On the bundled digits: conv1, block1 to block3 with conv1, conv2 and a sum each, block2 and block3
# with a shortcut of their own, average pooling and linear.
EVERY_KEY = """\
version: 1
quantizers:
  ptq:
    class: PostTrainLinearQuantizer
    bits_activations: 8
    bits_parameters: 8
    bits_accum: 20
    mode: {activations: ASYMMETRIC_UNSIGNED, weights: SYMMETRIC_RESTRICTED}
    per_channel_wts: true
    clip_acts: AVG
    clip_n_stds: 3
    clip_half_range: false
    scale_approx_mult_bits: 14
    inputs_quant_auto_fallback: true
    model_activation_stats: stats/that/are/not/there.yaml
    fp16: false
    save_fp_weights: false
    also_clip_weights: false
    overrides: !!python/object/apply:collections.OrderedDict
    - - - conv1
        - !!python/object/apply:collections.OrderedDict
          - - [bits_weights, 6]
            - [mode, ASYMMETRIC_SIGNED]
            - [input_overrides, {0: {clip_acts: NONE, bits_activations: 7}}]
      - - block1\\.conv.*
        - {clip_acts: GAUSS, mode: SYMMETRIC, bits_weights: 4, per_channel_wts: false}
      - - "*.add"
        - {bits_activations: 6, clip_acts: LAPLACE, scale_approx_mult_bits: null}
      - - shortcut.0
        - {bits_activations: null, bits_weights: null}
      - - avgpool
        - {clip_acts: N_STD, clip_n_stds: 4, quantize_inputs: false}
      - - relu*
        - {bits_activations: 4}
      - - linear
        - {clip_acts: NONE, bits_bias: 32, input_overrides: {0: {clip_acts: AVG}}}
"""
COMMON = {"bits": 8, "clip": "avg", "scale_bits": 14}
BY_HAND: dict[str, Any] = {
    "weights": 8,
    "activations": 8,
    "symmetric_weights": True,
    "per_channel": True,
    "ranges": {"weights": "absmax", "activations": "minmax"},
    "method": "range",
    "first_last": None,
    "balance": False,
    "accumulator": 20,
    "outputs": {
        "conv1": COMMON,
        r"block1\.conv[12]": {"bits": 8, "symmetric": True, "clip": "gauss", "scale_bits": 14},
        r"block[123]\.add": {"bits": 6, "clip": "laplace"},
        r"block[23]\.shortcut\.0": None,
        "avgpool": {**COMMON, "clip": "n_std", "deviations": 4},
        "linear": {**COMMON, "clip": "none"},
        r"block[23]\.conv[12]": COMMON,
    },
    "inputs": {
        "conv1#0": {**COMMON, "bits": 7, "clip": "none"},
        r"block[123]\.add#\d": {"bits": 6, "clip": "laplace"},
        "linear#0": COMMON,
    },
    "overrides": {
        "conv1": {
            "weights": 6,
            "symmetric_weights": False,
            "ranges": {"weights": "minmax", "activations": "minmax"},
        },
        r"block1\.conv[12]": {
            "weights": 4,
            "per_channel": False,
            "ranges": {"weights": {"name": "absmax", "full": 1}, "activations": "minmax"},
        },
        r"block[23]\.shortcut\.0": {"weights": None},
    },
}
SETTINGS = ["model.name=digits", "data.name=digits", "data.calibration_images=128"]


@pytest.fixture
def every_key(tmp_path: Path) -> Path:
    path = tmp_path / "every.yaml"
    path.write_text(EVERY_KEY)
    return path


def _ran(path: Path, settings: list[str], out: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    folder, results = runner.run(experiment.load(str(path), settings), out)
    (variant,) = results["variants"]
    with (folder / "variants" / variant["name"] / "layers.csv").open() as file:
        return variant, list(csv.DictReader(file))


@pytest.mark.slow
def test_it_gives_what_an_experiment_by_hand_gives(every_key: Path, tmp_path: Path) -> None:
    fields = {
        "model": {"name": "digits"},
        "data": {"name": "digits", "calibration_images": 128},
        "variants": {"ptq": BY_HAND},
        "runtimes": [],
    }
    (tmp_path / "hand.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    import_to(every_key, None, SETTINGS, tmp_path / "mine.yaml")

    hand, rows = _ran(tmp_path / "hand.yaml", [], tmp_path / "hand")
    as_it_is, same = _ran(every_key, SETTINGS, tmp_path / "as it is")
    changed, mine = _ran(tmp_path / "mine.yaml", [], tmp_path / "mine")

    assert rows == same == mine
    for key in ("metrics", "sqnr_db", "clipped_share", "notes"):
        assert hand[key] == as_it_is[key] == changed[key]
    assert {row["layer"] for row in rows if row["role"] == "activation"} >= {
        "conv1#0",
        "conv1",
        "block1.add",
        "avgpool",
        "linear",
    }
    assert hand["metrics"]["top1"] > 0.9


@pytest.mark.slow
def test_narrow_accumulators_are_counted_and_noted(every_key: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "variants.ptq.accumulator=11", "runtimes=[onnxruntime]"]

    variant, rows = _ran(every_key, settings, tmp_path / "run")

    shares = {row["layer"]: row["saturated"] for row in rows if row["role"] == "weight"}
    assert float(shares["block2.conv1"]) > 0.01
    (note,) = (note for note in variant["notes"] if "accumulators" in note)
    assert note.startswith("accumulators of 11 bits are simulated; files and runtimes have 32")
    assert "block2.conv1" in note
    # The file has the sums of the runtime, and is compared with a simulation that has them too.
    deployed = variant["deployed"]["onnxruntime"]
    assert deployed["simulated"]["top1"] > variant["metrics"]["top1"] + 0.1
    assert deployed["metrics"]["top1"] == pytest.approx(deployed["simulated"]["top1"], abs=0.02)


def test_a_comment_says_what_became_of_each_line(every_key: Path, tmp_path: Path) -> None:
    text = import_to(every_key, None, SETTINGS, tmp_path / "mine.yaml")

    assert (tmp_path / "mine.yaml").read_text() == text
    comments = [line for line in text.splitlines() if line.startswith("#   ")]
    given = yaml.safe_load(EVERY_KEY.replace("!!python/object/apply:collections.OrderedDict", ""))
    keys = [key for key in given["quantizers"]["ptq"] if key != "overrides"]
    for key in keys:
        assert any(f"{key}: " in line for line in comments), key
    assert any("'shortcut.0'" in line and "end of a name" in line for line in comments)
    assert any("'*.add'" in line and "block1.add, block2.add" in line for line in comments)
    assert any("at relu → computed along" in line for line in comments)
    assert any("not there: collected" in line for line in comments)


def test_comments_on_relus_and_on_earlier_patterns(tmp_path: Path) -> None:
    path = tmp_path / "ptq.yaml"
    given = {
        ".*conv.*": {"bits_activations": None, "bits_weights": 4},
        ".*relu.*": {"bits_activations": 4, "quantize_inputs": False},
        "block1.conv1": {"bits_weights": 8},
    }
    path.write_text(json.dumps({"quantizers": {"ptq": {"overrides": given}}}))

    text = import_to(path, None, SETTINGS, None)

    # Behind a convolution that gives float a ReLU has its own grid, behind a sum that has one not.
    (alone,) = (line for line in text.splitlines() if "computed along" in line)
    assert "block1.relu_2, block2.relu_2, block3.relu_2 →" in alone
    assert "overrides['block1.conv1'] at block1.conv1 → an earlier pattern matches" in text


def test_without_a_model_it_is_written_too(every_key: Path) -> None:
    text = import_to(every_key, None, [], None)

    assert "# model: {name: resnet18" in text
    fields = yaml.safe_load(text)
    assert set(fields["variants"]["ptq"]["outputs"]) >= {"conv1", r".*\.add", "linear", ".*"}


def test_statistics_that_are_there_are_used(every_key: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats" / "that" / "are" / "not" / "there.yaml"
    stats.parent.mkdir(parents=True)
    stats.write_text("{}")
    fields = yaml.safe_load(import_to(every_key, None, SETTINGS, None))
    assert fields["variants"]["ptq"]["statistics"] == str(stats)


def test_a_tag_that_runs_something_is_refused(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.yaml", tmp_path / "trace"
    path.write_text(f"quantizers: !!python/object/apply:os.system ['touch {trace}']\n")
    with pytest.raises(SubbyteError, match="not valid YAML"):
        experiment.load(str(path))
    assert not trace.exists()


def test_what_distiller_refuses_when_it_runs(tmp_path: Path) -> None:
    base: dict[str, Any] = {"bits_activations": 8, "inputs_quant_auto_fallback": False}
    path = tmp_path / "ptq.yaml"
    path.write_text(json.dumps({"quantizers": {"ptq": base}}))
    with pytest.raises(
        SubbyteError, match="inputs_quant_auto_fallback is false, and input 0 of 'conv1'"
    ):
        import_to(path, None, SETTINGS, None)
    given = {"block1.conv2": {"input_overrides": {0: {"from_output": True}}}}
    path.write_text(json.dumps({"quantizers": {"ptq": {"overrides": given}}}))
    with pytest.raises(SubbyteError, match=r"input_overrides for input 0 of 'block1\.conv2'"):
        import_to(path, None, SETTINGS, None)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["L3", "LAPLACE"])
def test_lapq_by_options(start: str, tmp_path: Path) -> None:
    options = (
        "--qe-bits-acts 4 --qe-bits-wts 4 --qe-per-channel --qe-mode-acts asym_u --qe-lapq "
        f"--lapq-init-mode {start} --lapq-maxiter 1 --lapq-maxfev 20 --lapq-search-clipping"
    )
    import_to(None, options, SETTINGS, tmp_path / "mine.yaml")

    variant, rows = _ran(tmp_path / "mine.yaml", [], tmp_path / "run")

    assert variant["method"] == "lapq"
    assert variant["metrics"]["top1"] > 0.5
    assert {row["layer"] for row in rows if row["bits"] == "4"} >= {"conv1", "block1.add"}
