"""How methods that learn report their losses: a caller passes an `Observer`; the default drops."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Anything that takes the losses of a method while it learns."""

    def loss(self, stage: str, name: str, step: int, value: float, *, held_out: bool) -> None:
        """Take one loss. Step 0 begins anew: a stage may be tried again.

        Args:
            stage: What is done, as progress calls it.
            name: The block or layer that is learned; "" is the whole network.
            step: From 0 on.
            value: The loss.
            held_out: Whether it is of images that are not learned from, and judge.
        """
        ...


class Unobserved:
    """An `Observer` that drops everything."""

    def loss(self, stage: str, name: str, step: int, value: float, *, held_out: bool) -> None:
        """Drop it.

        Args:
            stage: Not read.
            name: Not read.
            step: Not read.
            value: Not read.
            held_out: Not read.
        """
