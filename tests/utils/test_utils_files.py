from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from subbyte.errors import SubbyteError
from subbyte.utils.files import atomic, atomic_folder, make_folder, write_json, write_text

faults = pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "model.onnx"
    with atomic(path) as part:
        assert part.parent == path.parent  # the same file system, so that a rename is enough
        assert part.suffix == ".onnx"
        part.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert names(path.parent) == ["model.onnx"]


def test_a_file_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("older")
    with atomic(path) as part:
        part.write_text("newer")
        assert path.read_text() == "older"
    assert path.read_text() == "newer"


@faults
def test_a_block_that_fails_leaves_no_file(fault: type[BaseException], tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.write_text("as it was")

    def write_half_of(path: Path) -> None:
        with atomic(path) as part:
            part.write_text("half of")
            raise fault

    for path in (older, tmp_path / "new"):
        with pytest.raises(fault):
            write_half_of(path)
    assert names(tmp_path) == ["older"]
    assert older.read_text() == "as it was"


@faults
def test_a_block_that_fails_leaves_no_folder(fault: type[BaseException], tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    (older / "file").touch()

    def write_half_of(path: Path) -> None:
        with atomic_folder(path) as part:
            (part / "half").touch()
            raise fault

    for path in (older, tmp_path / "new"):
        with pytest.raises(fault):
            write_half_of(path)
    assert names(tmp_path) == ["older"]
    assert names(older) == ["file"]


def test_a_folder_takes_the_place_of_an_older_one_with_all_in_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with atomic_folder(path) as part:
        (part / "old").touch()
        assert not path.exists()
    with atomic_folder(path) as part:
        (part / "deep").mkdir()
        (part / "deep" / "new").touch()
        assert names(path) == ["old"]
    assert names(path) == ["deep"]
    assert names(path / "deep") == ["new"]
    assert names(path.parent) == ["one"]


@pytest.fixture
def strict_umask() -> object:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("strict_umask")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "text")
    with atomic_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größe…\n")
    assert (tmp_path / "a.txt").read_bytes() == "größe…\n".encode()


def test_a_folder_is_no_file_to_write(tmp_path: Path) -> None:
    with pytest.raises(SubbyteError, match="is a folder: name a file"), atomic(tmp_path):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("depth", ["file", "file/below"])
@pytest.mark.parametrize(
    "make",
    [
        make_folder,
        lambda path: atomic(path / "a").__enter__(),
        lambda path: atomic_folder(path / "a").__enter__(),
    ],
    ids=["make_folder", "atomic", "atomic_folder"],
)
def test_a_parent_that_is_a_file(
    make: Callable[[Path], object], depth: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("as it was")
    with pytest.raises(SubbyteError, match="is or lies under a file: name a folder"):
        make(tmp_path / depth)
    assert (tmp_path / "file").read_text() == "as it was"


def test_a_file_is_no_folder_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was")
    with pytest.raises(SubbyteError), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "as it was"


@pytest.mark.parametrize(("making", "write"), [("mkstemp", atomic), ("mkdtemp", atomic_folder)])
def test_a_folder_that_may_not_be_written_to(
    making: str, write: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, making, refuse)
    with (
        pytest.raises(SubbyteError, match=r"cannot be .*: Permission denied"),
        write(tmp_path / "a"),
    ):
        pass


def test_json_has_null_where_it_has_no_number(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_json(path, {"a": [1.5, float("nan")], "b": (float("inf"), 2), "c": {"d": None}})
    strict = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"a": [1.5, None], "b": [None, 2], "c": {"d": None}}
