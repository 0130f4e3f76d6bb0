"""`python -m subbyte`."""

from __future__ import annotations

import runpy

import pytest


def test_it_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["subbyte", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("subbyte", run_name="__main__")
    assert not exit_.value.code
    assert "subbyte [OPTIONS] COMMAND" in capsys.readouterr().out
