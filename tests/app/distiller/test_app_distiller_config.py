"""Keys of Distiller's that are wrong, unknown or is not supported: each error names the key."""

from __future__ import annotations

from typing import Any

import pytest

from subbyte.app.distiller.config import read_configuration
from subbyte.app.distiller.names import Network, reading_of
from subbyte.app.distiller.options import read_options
from subbyte.errors import SubbyteError

NETWORK = Network(
    (
        ("conv1",),
        ("relu", "relu1"),
        ("layer1.0.conv1",),
        ("layer1.0.add", "layer1.0.add1"),
        ("layer1.0.downsample.0",),
        ("avgpool",),
        ("fc",),
    ),
    ("conv1", "layer1.0.conv1", "layer1.0.downsample.0", "fc"),
)


def _read(**fields: Any) -> Any:
    return read_configuration(
        {"quantizers": {"ptq": {"class": "PostTrainLinearQuantizer", **fields}}}
    )


def _override(**fields: Any) -> Any:
    return _read(overrides={"conv1": fields})


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("bits_activations", {"bits_activations": 16}),
    ("bits_parameters", {"bits_parameters": "eight"}),
    ("bits_accum", {"bits_accum": 64}),
    ("mode", {"mode": "SYMETRIC"}),
    ("mode", {"mode": {"acts": "SYMMETRIC"}}),
    ("per_channel_wts", {"per_channel_wts": "perhaps"}),
    ("clip_acts", {"clip_acts": "MEAN"}),
    ("clip_n_stds", {"clip_acts": "N_STD"}),
    ("clip_n_stds", {"clip_acts": "N_STD", "clip_n_stds": -1}),
    ("clip_half_range", {"clip_half_range": 3}),
    ("scale_approx_mult_bits", {"scale_approx_mult_bits": 0}),
    ("inputs_quant_auto_fallback", {"inputs_quant_auto_fallback": "x"}),
    ("model_activation_stats", {"model_activation_stats": 3}),
    ("fp16", {"fp16": True}),
    ("fpq_module", {"fpq_module": 16}),
    ("also_clip_weights", {"also_clip_weights": True, "clip_acts": "AVG"}),
    ("clip_act", {"clip_act": "AVG"}),
    ("bits_weights", {"bits_weights": 8}),
    ("overrides", {"overrides": ["conv1"]}),
]
WRONG_OVERRIDES: list[tuple[str, dict[str, Any]]] = [
    ("bits_activations", {"bits_activations": 1}),
    ("bits_weights", {"bits_weights": 9}),
    ("clip_acts", {"clip_acts": "avrg"}),
    ("bits_accum", {"bits_accum": 16}),
    ("acts", {"acts": 8}),
    ("wts", {"wts": 8}),
    ("input_overrides", {"input_overrides": {"first": {}}}),
    ("clip_act", {"input_overrides": {0: {"clip_act": "AVG"}}}),
    ("fpq_module", {"fpq_module": 32}),
    ("quantize_input", {"quantize_input": False}),
    ("clip_acts", {"bits_activations": None, "bits_weights": None, "clip_acts": "AVG"}),
    ("clip_half_range", {"bits_activations": None, "clip_half_range": True}),
]


@pytest.mark.parametrize(("key", "fields"), WRONG)
def test_a_wrong_key_is_named(key: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SubbyteError, match=rf"quantizers\.ptq.*{key}"):
        _read(**fields)


@pytest.mark.parametrize(("key", "fields"), WRONG_OVERRIDES)
def test_a_wrong_key_of_an_override_is_named(key: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SubbyteError, match=rf"quantizers\.ptq\.overrides\['conv1'\].*{key}"):
        _override(**fields)


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"quantizers": {"a": {"class": "DorefaQuantizer"}}}, "class is 'DorefaQuantizer'"),
        ({"quantizers": {"a": {}, "b": {}}}, "one quantizer"),
        ({"quantizers": {"a": {}}, "policies": []}, "policies is not supported"),
        ({"quantizers": {"a": 3}}, "quantizers.a is 3"),
    ],
)
def test_what_is_no_quantizer_after_training(raw: dict[str, Any], match: str) -> None:
    with pytest.raises(SubbyteError, match=match):
        read_configuration(raw)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("conv1", ("conv1",)),  # of the whole name, so not layer1.0.conv1
        (".*conv1", ("conv1", "layer1.0.conv1")),
        ("*.add", ("layer1.0.add",)),
        (".*add", ("layer1.0.add",)),
        ("relu*", ("relu",)),
        ("relu1", ("relu",)),
        ("downsample.0", ("layer1.0.downsample.0",)),
        ("layer1*", ("layer1.0.conv1", "layer1.0.add", "layer1.0.downsample.0")),
    ],
)
def test_patterns(pattern: str, found: tuple[str, ...]) -> None:
    assert reading_of(pattern, "overrides", NETWORK).operations == found


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(SubbyteError, match="here: unknown module 'convv1': did you mean 'conv1'"):
        reading_of("convv1", "here", NETWORK)


def test_options_mean_what_keys_do() -> None:
    text = (
        "-a resnet18 --qe --qe-bits-acts 4 --qebw 0 --qe-mode asym_u --qemw sym_restr --qepc "
        "--qe-clip-acts n_std --qe-clip-n-stds 3 --qencl fc --qenql conv1 --qesab 8 "
        "--qe-bits-accum 16 --qe-stats-file stats.yaml"
    )
    options = read_options(text)

    assert options.keys == {
        "bits_activations": 4,
        "bits_parameters": None,
        "bits_accum": 16,
        "mode": {"activations": "ASYMMETRIC_UNSIGNED", "weights": "SYMMETRIC_RESTRICTED"},
        "clip_acts": "N_STD",
        "clip_n_stds": 3.0,
        "per_channel_wts": True,
        "scale_approx_mult_bits": 8,
        "model_activation_stats": "stats.yaml",
        "overrides": {
            "conv1": {"bits_activations": None, "bits_weights": None},
            "fc": {"clip_acts": "NONE"},
        },
    }
    assert options.sections == {"model": {"name": "resnet18"}}


def test_options_of_lapq() -> None:
    text = "--qe-lapq --lapq-init-mode L3 --lapq-maxiter 2 --lapq-maxfev 90 --lapq-search-clipping"
    lapq = read_options(text).lapq
    assert lapq is not None
    assert (lapq.rule, lapq.search) == ({"name": "lp", "p": 3}, "clip")
    assert (lapq.rounds, lapq.evaluations) == (2, 90)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("--qe-bits-act 4", "unknown option '--qe-bits-act': did you mean '--qe-bits-acts'"),
        ("--qe-bits-acts four", "--qe-bits-acts"),
        ("--qe-mode symm", "--qe-mode"),
        ("--qe-dynamic", "--qe-dynamic is not supported"),
        ("--qe-convert-pytorch", "--qe-convert-pytorch is not supported"),
        ("--qe-lapq --lapq-basinhopping", "--lapq-basinhopping is not supported"),
        ("--qe-lapq --lapq-method Nelder-Mead", "--lapq-method Nelder-Mead is not supported"),
        ("--lapq-maxiter 2", "--lapq-maxiter is of LAPQ"),
        ("--qe-config-file a.yaml --qe-bits-acts 4", "takes the place of --qe-bits-acts"),
        ("--qe-calibration 2", "'2' is not a share"),
    ],
)
def test_options_that_are_wrong_are_named(text: str, match: str) -> None:
    with pytest.raises(SubbyteError, match=match):
        read_options(text)
