"""The range rules, one file each; a file's name is the rule's name.

A rule sees weights and activations alike: `Sample.values` has one row a channel (weights) or one
row in all (activations, whose values are the centres of a histogram and `counts` their numbers).
A recipe's options are checked by the rule, so a rule that has some imports PyTorch where it
computes, and not at its top. Every file in this folder is a rule: helpers belong elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol, cast

from subbyte.errors import SubbyteError, unknown
from subbyte.numerics.qspec import QSpec, qparams_of
from subbyte.numerics.ranges.common.sample import Range, Sample, sample_of

if TYPE_CHECKING:
    import torch

__all__ = ["Range", "Rule", "Sample", "check", "choose", "names", "rule", "sample_of", "weighs"]


class Rule(Protocol):
    """What a file in this folder holds.

    Options of a rule are the keyword arguments of `range_of`, numbers with a default. A rule that
    does not take every number has a function `check` too, from the same keyword arguments to a
    `SubbyteError`; one that looks at `Sample.mse_weights` has a function `weighs`, from them to
    whether it does.
    """

    def range_of(self, sample: Sample, spec: QSpec, **options: Any) -> Range:
        """Both ends of the range that a tensor's integers cover, each of shape (channels,)."""


def names() -> list[str]:
    """The names of all rules."""
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]


def rule(name: str) -> Rule:
    """The rule of this name.

    Raises:
        SubbyteError: There is no such rule.
    """
    if name not in names():
        raise unknown("range rule", name, names())
    return cast("Rule", importlib.import_module(f"{__name__}.{name}"))


def check(name: str, options: dict[str, Any]) -> None:
    """Raise `SubbyteError` unless `name` is a rule that takes `options`."""
    _settled(name, options)


def choose(
    name: str, options: dict[str, Any], sample: Sample, spec: QSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point that a rule gives, each of shape (channels,).

    Args:
        name: The rule.
        options: Its options by name.
        sample: The values of a weight, a row a channel, or of an activation, one row.
        spec: The integers that the values become.

    Raises:
        SubbyteError: There is no such rule, or it does not take `options`.
    """
    settled = _settled(name, options)
    low, high = rule(name).range_of(sample, spec, **settled)
    return qparams_of(low, high, spec)


def weighs(name: str, options: dict[str, Any]) -> bool:
    """Whether the rule `name` with `options` looks at a sample's `mse_weights`."""
    asked = getattr(rule(name), "weighs", None)
    return asked is not None and bool(asked(**_settled(name, options)))


def _settled(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a rule with its defaults for those that are not given, all checked."""
    module = rule(name)
    keywords = list(inspect.signature(module.range_of).parameters.values())[2:]
    known = {keyword.name: keyword.default for keyword in keywords}
    for option, value in options.items():
        if option not in known:
            if not known:
                raise SubbyteError(f"range rule '{name}' has no option '{option}': it takes none")
            raise unknown(f"option of range rule '{name}'", option, known)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SubbyteError(f"{option} is {value!r}: give a number")
    settled = known | options
    refuse = getattr(module, "check", None)
    if refuse is not None:
        refuse(**settled)
    return settled
