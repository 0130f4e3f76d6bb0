from __future__ import annotations

import gc

from subbyte.utils.collector import importing


def test_nothing_is_collected_meanwhile_and_collecting_goes_on_afterwards() -> None:
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]  # type: ignore[var-annotated]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= frozen + len(kept)
    finally:
        gc.unfreeze()
