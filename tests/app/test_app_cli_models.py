"""Models that a run cannot use: one sentence, and nothing is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Own, Refusal

BODY = "        x = torch.relu(self.norm(self.edges(x)))\n        return self.head("


def test_a_model_with_no_layer_to_quantize(own: Own, refusal: Refusal) -> None:
    (own.path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n"
        "        return x.mean((2, 3))[:, :2]\n\n\ndef build():\n    return Net()\n"
    )
    message = refusal("run", own.yaml(model={"factory": "net.py:build"}))
    assert "the model has no convolution, linear layer or matrix product" in message


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        ("self, x, y", "takes the inputs (x, y), and a batch gives 1"),
        ("self, x, *, scale", "takes the inputs (x, *, scale), and a batch gives 1"),
        ("self", "takes the inputs (), and a batch gives 1"),
    ],
)
def test_a_model_with_other_inputs(own: Own, refusal: Refusal, signature: str, told: str) -> None:
    own.rewrite("def forward(self, x)", f"def forward({signature})")
    message = refusal("run", own.yaml())
    assert told in message
    assert "an experiment gives images alone, so wrap the model in a module" in message
    assert "or use subbyte.quantize, which takes tuples" in message


def test_a_second_input_that_has_a_default_is_left_out(own: Own, refusal: Refusal) -> None:
    own.rewrite("def forward(self, x)", "def forward(self, x, y=None)")
    # Found only after the model: the images have a class too many.
    own.draw("pictures/val/grey/0.png", 90, 150)
    assert "3 classes" in refusal("run", own.yaml())


@pytest.mark.parametrize(
    ("returned", "kind"),
    [("{'logits': y}", "dict"), ("(y, x)", "tuple"), ("[y]", "list"), ("None", "NoneType")],
)
def test_a_model_whose_output_is_no_tensor(
    own: Own, refusal: Refusal, returned: str, kind: str
) -> None:
    own.rewrite(BODY, BODY.replace("return ", "y = ") + "torch.relu(self.mix(x)).mean((2, 3)))\n"
                f"        return {returned}\n        return self.head(")  # fmt: skip
    message = refusal("run", own.yaml())
    assert f"the model returns a {kind} and not logits" in message
    assert "one tensor of shape (batch, classes), so wrap the model in a module" in message


def test_a_size_that_a_model_by_name_rejects(own: Own, refusal: Refusal) -> None:
    data = {"root": "pictures", "preprocessing": {"resize": 160, "crop": 160}}
    message = refusal("run", own.yaml(model={"name": "vit_b_32", "num_classes": 2}, data=data))
    assert "the model does not run on images of 160x160 with 3 channels" in message
    assert "Expected 224 but got 160; give data.preprocessing the 224x224 of the model's own" in (
        message
    )


def test_a_size_at_which_a_layer_fails(own: Own, refusal: Refusal) -> None:
    own.rewrite(BODY, "        x = torch.max_pool2d(x, 20)\n" + BODY)
    message = refusal("run", own.yaml())
    assert "the model does not run on images of 16x16 with 3 channels" in message
    assert "Output size is too small" in message
    assert "net.py:14 (x = torch.max_pool2d(x, 20)); give data.preprocessing a crop that" in message


def test_channels_that_a_model_rejects(own: Own, refusal: Refusal) -> None:
    data = {"root": "pictures", "preprocessing": {"mean": [0.5], "std": [0.5]}}
    message = refusal("run", own.yaml(data=data))
    assert "images of 16x16 with 1 channel:" in message
    assert "expected input[8, 1, 16, 16] to have 3 channels" in message
