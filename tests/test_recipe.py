from __future__ import annotations

from typing import Any

import pytest
import torch

from subbyte import Recipe, SubbyteError
from subbyte.recipe import Choice, Override, choice, fields_of, method_names, recipe_of, rule_of


def refusal(**fields: Any) -> str:
    """The sentence with which a recipe refuses `fields`."""
    with pytest.raises(SubbyteError) as caught:
        Recipe(**fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults() -> None:
    assert Recipe().as_dict() == {
        "weights": 8,
        "activations": 8,
        "symmetric_weights": None,
        "symmetric_activations": False,
        "per_channel": True,
        "ranges": "mse",
        "method": "auto",
        "equalize": False,
        "balance": True,
        "first_last": 8,
        "overrides": {},
        "regions": None,
        "outputs": {},
        "inputs": {},
        "statistics": None,
        "accumulator": 32,
        "reduce_range": False,
        "seed": 0,
    }


@pytest.mark.parametrize("field", ["weights", "activations", "first_last"])
@pytest.mark.parametrize("bits", [1, 9, 0, -4, True, 4.0, "4"])
def test_bits_are_whole_numbers_from_2_to_8(field: str, bits: object) -> None:
    assert refusal(**{field: bits}).startswith(
        f"{field}: {bits!r} bits are not supported: give 2 to 8"
    )


@pytest.mark.parametrize("bits", [2, 8, None])
def test_bits_at_the_edges(bits: int | None) -> None:
    recipe = Recipe(weights=bits, activations=bits, first_last=bits)
    assert (recipe.weights, recipe.activations, recipe.first_last) == (bits, bits, bits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": 4}, "unknown key 'weight': did you mean 'weights'?"),
        ({"ranges": "mze"}, "unknown range rule 'mze': did you mean 'mse'?"),
        ({"ranges": {"weights": "mimmax"}}, "unknown range rule 'mimmax': did you mean 'minmax'?"),
        ({"ranges": {"weight": "mse"}}, "ranges has the key 'weight'"),
        ({"ranges": {}}, "give a rule's name"),
        ({"ranges": 3}, "ranges is 3"),
        ({"ranges": None}, "ranges"),
        ({"ranges": {"name": 3}}, "{'name': 3} has no name"),
        ({"ranges": {"name": "mse", "q": 2}}, "'q'"),
        ({"ranges": {"name": "minmax", "p": 2}}, "it takes none"),
        ({"method": "gptq"}, "give {name: subbyte, steps: 0}"),
        ({"method": "rnage"}, "unknown method 'rnage': did you mean 'range'?"),
        ({"method": 3}, "method"),
        ({"method": {"steps": 3}}, "{'steps': 3} has no name"),
        ({"equalize": "maybe"}, "equalize is 'maybe'"),
        ({"regions": "backbone"}, "regions is 'backbone'"),
        (
            {"overrides": {"conv(": {"weights": 4}}},
            "the override 'conv(' is not a regular expression",
        ),
        ({"overrides": {"a": {"weights": 9}}}, "overrides['a']: weights: 9 bits are not supported"),
        ({"overrides": {"a": {"wights": 4}}}, "overrides['a']: unknown key 'wights': did you mean"),
        ({"overrides": {"a": {"ranges": "mze"}}}, "overrides['a']: unknown range rule 'mze'"),
        ({"overrides": {"a": 4}}, "overrides.a is 4"),
        ({"overrides": [4]}, "overrides is [4]"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": "a\nb"}, "seed is 'a\\nb'"),
        ({"per_channel": "perhaps"}, "per_channel is 'perhaps'"),
        ({"symmetric_weights": 3}, "symmetric_weights is 3"),
        ({"reduce_range": None}, "reduce_range is None"),
    ],
)
def test_a_bad_value_is_reported_in_one_sentence(fields: dict[str, Any], message: str) -> None:
    assert message in refusal(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranges": {"name": "mse", "p": "two"}}, "p is 'two'"),
        ({"ranges": {"name": "mse", "p": 20}}, "p is 20: it must be above 0 and at most 10"),
        ({"ranges": {"weights": None}}, "None"),
        ({"ranges": {"activations": 3}}, "3"),
    ],
)
def test_a_bad_option_is_reported_when_the_recipe_is_made(
    fields: dict[str, Any], message: str
) -> None:
    assert message in refusal(**fields)


def test_a_strange_value_is_reported_in_one_short_sentence() -> None:
    assert len(refusal(weights=torch.eye(20))) < 200


def test_a_recipe_cannot_be_changed() -> None:
    recipe = Recipe()
    with pytest.raises(ValueError, match="frozen"):
        recipe.weights = 4


def test_a_recipe_comes_back_from_plain_data() -> None:
    recipe = Recipe(
        weights=4,
        ranges={"weights": {"name": "mse", "p": 3}, "activations": "minmax"},
        overrides={"head": {"activations": None}, "body.*": Override(weights=2)},
    )
    data = recipe.as_dict()
    assert data["overrides"] == {"head": {"activations": None}, "body.*": {"weights": 2}}
    assert Recipe(**data) == recipe
    # A value that is null and one that is not given are two things in an override.
    assert Recipe(**data).overrides["head"].model_fields_set == {"activations"}


@pytest.mark.parametrize(
    ("asked", "bits", "symmetric"),
    [(None, 8, True), (None, 7, False), (None, 2, False), (True, 2, True), (False, 8, False)],
)
def test_weights_are_symmetric_at_eight_bits(
    asked: bool | None, bits: int, symmetric: bool
) -> None:
    assert Recipe(symmetric_weights=asked).weights_symmetric(bits) is symmetric
    assert Recipe().weights_symmetric(bits, asked) is symmetric


def test_an_override_of_symmetry_beats_the_recipe() -> None:
    assert Recipe(symmetric_weights=True).weights_symmetric(4, False) is False


def test_choices_have_a_name_and_options() -> None:
    assert choice("mse") == Choice("mse", {})
    assert choice({"name": "mse", "p": 3}) == Choice("mse", {"p": 3})


def test_range_rules_of_weights_and_activations() -> None:
    assert rule_of("minmax", "weights") == rule_of("minmax", "activations") == ("minmax", {})
    assert rule_of({"name": "mse", "p": 2}, "weights") == ("mse", {"p": 2})
    both = {"weights": "minmax", "activations": {"name": "percentile", "percentile": 99}}
    assert rule_of(both, "weights") == ("minmax", {})
    assert rule_of(both, "activations") == ("percentile", {"percentile": 99})
    assert rule_of({"activations": "minmax"}, "weights") == ("mse", {})


def test_method_names() -> None:
    assert method_names()[0] == "auto"
    assert "range" in method_names()


def test_a_recipe_is_given_as_itself_or_by_its_fields() -> None:
    fields = {"weights": 4, "overrides": {"head": {"weights": 8}}}
    assert recipe_of(fields) == recipe_of(Recipe(**fields)) == Recipe(**fields)
    assert recipe_of(None) == Recipe()
    assert fields_of(Recipe(**fields)) == fields
    with pytest.raises(SubbyteError, match=r"recipe is 4: give a subbyte\.Recipe or"):
        recipe_of(4)  # type: ignore[arg-type]
