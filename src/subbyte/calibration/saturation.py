"""How many of the layers' integer sums saturate in accumulators narrower than those of runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from subbyte.calibration.clipping import share
from subbyte.numerics.fake_quantize import Clipping
from subbyte.placement.simulation import Simulation

# A layer of which more sums saturate is called destroyed. Of ResNet-20 at W8A8 no layer has that
# share with 18 bits, where top-1 is 0.2 points less; each has more where it alone has 16 bits, and
# all together take top-1 from 80.5 to 19.7 % (docs/explained/heritage.md).
DESTROYED = 0.1


@contextmanager
def counting(model: nn.Module) -> Iterator[dict[str, Clipping]]:
    """While it lasts, sums are counted, and those that saturate: name of the layer → how many."""
    layers = list(model.sums()) if isinstance(model, Simulation) else []
    counts = {found.layer: Clipping() for found, _ in layers}
    for found, sums in layers:
        sums.saturation = counts[found.layer]
    try:
        yield counts
    finally:
        for _, sums in layers:
            sums.saturation = None


def note(model: Simulation, counts: Mapping[str, Clipping]) -> str | None:
    """A sentence on the accumulators that files do not have, and the layers that they destroy.

    Args:
        model: The simulation.
        counts: Name of a layer → its sums, on the evaluation images.
    """
    bits = {found.layer: found.bits for found in model.placement.sums if found.bits < 32}
    if not bits:
        return None
    widths = " and ".join(map(str, sorted(set(bits.values()))))
    first = f"accumulators of {widths} bits are simulated; files and runtimes have 32"
    found = sorted(
        ((share(counts[layer]) or 0.0, layer) for layer in bits if layer in counts), reverse=True
    )
    lost = [(part, layer) for part, layer in found if part > DESTROYED]
    if not lost:
        most = f"; at most {found[0][0]:.2%} saturate, at {found[0][1]}" if found else ""
        return first + most
    named = ", ".join(f"{layer} ({part:.1%})" for part, layer in lost[:5])
    more = f" and {len(lost) - 5} more layers" if len(lost) > 5 else ""
    return f"{first}; these layers are destroyed by sums that saturate: {named}{more}"
