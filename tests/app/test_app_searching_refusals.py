"""What a search refuses, in one sentence each, before work begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from subbyte.app.experiment import Experiment
from subbyte.errors import SubbyteError

if TYPE_CHECKING:
    from .conftest import Own, Refusal

BASE: dict[str, Any] = {"model": {"name": "digits"}, "data": {"name": "digits"}}


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ({"search": {}}, "max_drop is missing"),
        ({"search": {"max_drop": -1}}, "max_drop is -1"),
        ({"search": {"max_drop": 0}}, "max_drop is 0"),
        ({"search": {"max_drop": 100, "relative": True}}, "give less than 100"),
        ({"search": {"max_drop": 1, "objective": "speed"}}, "objective"),
        ({"search": {"max_drop": 1, "objective": "latency"}}, "has no runtime: give runtime"),
        ({"search": {"max_drop": 1, "runtime": "onnxruntime"}}, "for the objective latency alone"),
        (
            {"search": {"max_drop": 1, "objective": "latency", "runtime": "onnx"}},
            "unknown runtime 'onnx'",
        ),
        ({"search": {"max_drop": 1, "weights": [1]}}, "give a list of 2 to 8"),
        ({"search": {"max_drop": 1, "weights": []}}, "give a list of 2 to 8"),
        ({"search": {"max_drop": 1, "confidence": 0.4}}, "confidence is 0.4"),
        ({"search": {"max_drop": 1, "time_limit": 0}}, "time_limit is 0"),
        ({"search": {"max_drop": 1, "tolerance": 1}}, "tolerance"),
        ({"search": 1}, "give a mapping, as {max_drop: 0.5}"),
        ({"search": {"max_drop": 1}, "weights": 4}, "weights stands beside search"),
        ({"search": {"max_drop": 1}, "activations": 4}, "give search.activations"),
        ({"search": {"max_drop": 1}, "first_last": None}, "first_last stands beside search"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(variant: dict[str, Any], words: str) -> None:
    with pytest.raises(SubbyteError, match=r"variants\.small") as caught:
        Experiment(**BASE, variants={"small": variant})
    assert words in str(caught.value)


def test_a_search_is_read_back_from_what_is_written() -> None:
    import yaml

    from subbyte.app.experiment import dump

    given = Experiment(
        **BASE,
        variants={"small": {"search": {"max_drop": 0.5, "weights": [2, 4]}, "ranges": "minmax"}},
    )
    again = Experiment(**yaml.safe_load(dump(given)))
    assert again == given


@pytest.mark.parametrize(
    ("model", "data"),
    [
        # Neither the weights nor the names of classes are looked for before.
        ({"name": "resnet18", "weights": "IMAGENET1K_V1"}, {"root": "pictures"}),
        ({"factory": "net.py:fails"}, {"root": "pictures", "evaluation_images": 8}),
    ],
)
def test_too_few_images_are_found_before_the_model_is_opened(
    own: Own, refusal: Refusal, model: dict[str, Any], data: dict[str, Any]
) -> None:
    own.rewrite("def build", "def fails():\n    raise KeyError\n\n\ndef build")
    own.yaml(model=model, data=data, variants={"small": {"search": {"max_drop": 1}}})
    message = refusal("run", "my.yaml", "--out", "out")
    assert "variants.small: a search splits the evaluation images in two, and 8 are too" in message


def test_too_few_images_are_found_before_the_model_is_captured(own: Own, refusal: Refusal) -> None:
    """Of a user's own model, whose images are counted when they are opened."""
    own.rewrite(
        "        x = torch.relu", "        assert float(x.sum()) < 1e9\n        x = torch.relu"
    )
    own.yaml()
    assert "cannot capture" in refusal("run", "my.yaml", "--out", "out")
    own.yaml(variants={"small": {"search": {"max_drop": 1}}})
    message = refusal("run", "my.yaml", "--out", "out")
    assert "and 8 are too few: give at least 40" in message


@pytest.mark.parametrize("runtime", ["executorch", "qonnx"])
def test_a_runtime_without_a_profile_is_found_before_the_model_is_opened(
    own: Own, refusal: Refusal, runtime: str
) -> None:
    own.rewrite("def build", "def fails():\n    raise KeyError\n\n\ndef build")
    search = {"max_drop": 1, "objective": "latency", "runtime": runtime}
    data = {"root": "pictures", "evaluation_images": 40}
    variants = {"small": {"search": search}}
    own.yaml(model={"factory": "net.py:fails"}, data=data, variants=variants)
    message = refusal("run", "my.yaml", "--out", "out")
    assert f"variants.small: {runtime} has no profile of a file" in message
