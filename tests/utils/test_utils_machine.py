from __future__ import annotations

import json
from pathlib import Path

import pytest

from subbyte.utils import cores, machine


@pytest.mark.parametrize(
    ("processor", "cpuinfo", "expected"),
    [
        ("x86_64", ["flags\t\t: fpu sse2 avx512f avx512_vnni"], True),
        ("AMD64", ["processor\t: 0", "flags\t\t: avx2 avx_vnni"], True),
        ("x86_64", ["flags\t\t: avx512f amx_tile amx_int8"], True),
        ("x86_64", ["flags\t\t: fpu sse2 avx2 avx512f avx512bw avx512_vnniX"], False),
        ("x86_64", ["vmx flags\t: avx_vnni", "flags\t\t: avx2"], False),
        ("x86_64", ["model name\t: Some Processor avx_vnni"], None),
        ("x86_64", [], None),
        ("aarch64", [], True),
        ("arm64", ["Features\t: fp asimd"], True),
    ],
)
def test_vnni_is_read_from_the_processors_flags(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    processor: str,
    cpuinfo: list[str],
    expected: bool | None,
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("\n".join(cpuinfo), encoding="utf-8")
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    monkeypatch.setattr(machine, "CPUINFO", file)
    assert machine.has_vnni() is expected


def test_the_description_names_the_processor_and_missing_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Abacus 3000 @ 1.00GHz", encoding="utf-8")
    monkeypatch.setattr(machine, "CPUINFO", file)
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    described = json.loads(json.dumps(machine.describe()))
    assert described["processor"] == "Abacus 3000 @ 1.00GHz"
    assert described["packages"]["no-such-package"] is None
    assert described["packages"]["torch"].startswith("2.")
    assert 1 <= described["usable_cores"] <= described["cores"]


@pytest.mark.parametrize(("usable", "threads"), [(64, 2), (2, 2), (1, 1)])
def test_runtimes_get_two_threads_at_most(
    monkeypatch: pytest.MonkeyPatch, usable: int, threads: int
) -> None:
    monkeypatch.setattr(cores, "usable", lambda: usable)
    assert machine.threads() == threads
