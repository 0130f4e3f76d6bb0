"""What the processor under the tests can do."""

from __future__ import annotations

import pytest

from subbyte.utils import machine

# Without VNNI the runtimes' sums of 8-bit products saturate: there, tests that compare them with
# the simulation take weights whose products do not.
FITTING = {"reduce_range": True} if machine.has_vnni() is False else {}
# And those whose recipes are fixed are skipped.
exact_sums = pytest.mark.skipif(
    bool(FITTING), reason="this processor has no VNNI: 8-bit sums saturate in the runtimes"
)
