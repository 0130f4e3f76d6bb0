from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from subbyte.app.experiment import Experiment, dump
from subbyte.app.run_folder import RunFolder, command_to_resume, open_folder
from subbyte.errors import SubbyteError

log = logging.getLogger("subbyte")
Then = Callable[[RunFolder], None]
OUT = Path("out")


def experiment(seed: int = 0, name: str = "try") -> Experiment:
    variants = {"a": {"weights": 4}}
    parts = {"model": {"name": "digits"}, "data": {"name": "digits"}, "variants": variants}
    return Experiment(name=name, seed=seed, **parts).with_seed()


def enter(then: Then, out: Path | None = None, *, seed: int = 0, resume: bool = False) -> RunFolder:
    """Open the folder of a run, do something in it, and close it."""
    with open_folder(experiment(seed), out, resume) as folder:
        then(folder)
    return folder


def nothing(folder: RunFolder) -> None:
    pass


def finish_float(folder: RunFolder) -> None:
    folder.float_path.mkdir()
    (folder.float_path / "float.json").write_text('{"images": 3}')


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_new_run_gets_a_folder_named_after_the_time() -> None:
    folders = []
    for _ in range(3):  # within one second or two
        with open_folder(experiment(name="group/try"), None, resume=False) as folder:
            folders.append(folder.path)
    assert len(set(folders)) == 3
    for path in folders:
        assert path.parent == Path("runs/group/try")
        assert re.fullmatch(r"\d{8}-\d{6}(-\d)?", path.name)
        assert (path / "experiment.yaml").read_text() == dump(experiment(name="group/try"))
        assert (path / "run.log").is_file()


def test_a_named_folder_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with open_folder(experiment(), tmp_path / "mine", resume=False) as folder:
        assert not folder.float_is_done()
        finish_float(folder)
        assert folder.float_is_done()
        assert folder.read_float() == {"images": 3}
        assert not folder.is_done("a")
        assert folder.variant_path("a") == tmp_path / "mine/variants/a"


@pytest.mark.parametrize("out", [Path("new"), Path("new/and/deep"), None])
def test_bad_input_takes_the_folder_with_it(tmp_path: Path, out: Path | None) -> None:
    def refuse(folder: RunFolder) -> None:
        (folder.path / "something").touch()
        raise SubbyteError("too late")

    (tmp_path / "other").mkdir()
    with pytest.raises(SubbyteError, match="too late"):
        enter(refuse, out)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_is_finished_survives_bad_input_and_the_log_tells_of_it() -> None:
    def refuse(folder: RunFolder) -> None:
        finish_float(folder)
        raise SubbyteError("this variant asks too much")

    with pytest.raises(SubbyteError):
        enter(refuse, OUT)
    assert RunFolder(OUT).float_is_done()
    (line,) = (OUT / "run.log").read_text().splitlines()
    assert line.endswith("ERROR this variant asks too much")


def test_faults_are_logged_and_logging_ends_with_the_run() -> None:
    def fail(folder: RunFolder) -> None:
        log.info("half way")
        raise ZeroDivisionError("one over none")

    before = log.level, log.propagate, list(log.handlers)
    with pytest.raises(ZeroDivisionError):
        enter(fail, OUT)
    text = (OUT / "run.log").read_text()
    assert "INFO half way" in text
    assert "Traceback (most recent call last)" in text
    assert "ZeroDivisionError: one over none" in text
    assert (log.level, log.propagate, log.handlers) == before
    log.warning("afterwards")
    assert (OUT / "run.log").read_text() == text


def test_resume_goes_on_in_the_latest_folder_of_the_same_experiment() -> None:
    paths = [enter(nothing, seed=seed).path for seed in (0, 0, 1)]
    assert enter(nothing, seed=0, resume=True).path == paths[1]
    assert enter(nothing, seed=1, resume=True).path == paths[2]
    with pytest.raises(SubbyteError, match="no run of this experiment in runs/try to resume"):
        enter(nothing, seed=2, resume=True)


def test_resume_removes_what_a_killed_run_left() -> None:
    enter(finish_float, OUT)
    (OUT / "variants/.a.x1y2").mkdir(parents=True)
    (OUT / "variants/.a.x1y2/model.onnx").touch()
    (OUT / ".results.json.x1y2.json").touch()
    (OUT / ".float.x1y2").mkdir()
    assert enter(nothing, OUT, resume=True).float_is_done()
    assert list(OUT.rglob(".*")) == []


def test_another_run_is_not_touched() -> None:
    enter(finish_float, OUT)
    before = {path: path.stat().st_mtime_ns for path in OUT.rglob("*")}
    with pytest.raises(SubbyteError, match="out holds another run"):
        enter(nothing, OUT)
    with pytest.raises(SubbyteError, match="seed is 0 there and 1 here"):
        enter(nothing, OUT, seed=1, resume=True)
    assert {path: path.stat().st_mtime_ns for path in OUT.rglob("*")} == before


def test_resume_leaves_the_users_own_hidden_files() -> None:
    enter(nothing, OUT)
    (OUT / ".git").mkdir()
    (OUT / ".git/config").touch()
    enter(nothing, OUT, resume=True)
    assert (OUT / ".git/config").is_file()


def changed(variants: dict[str, dict[str, object]]) -> Experiment:
    parts = {"model": {"name": "digits"}, "data": {"name": "digits"}, "variants": variants}
    return Experiment(name="try", **parts).with_seed()


def finish(folder: RunFolder, *names: str) -> None:
    finish_float(folder)
    for name in names:
        folder.variant_path(name).mkdir(parents=True)
        (folder.variant_path(name) / "variant.json").write_text("{}")


def test_a_run_goes_on_with_other_variants_and_says_what_changed() -> None:
    first = changed({"a": {"weights": 4}, "b": {"weights": 3}, "c": {}})
    with open_folder(first, OUT, resume=False) as folder:
        finish(folder, "a", "b", "c")
        (folder.unfinished_path("b")).mkdir(parents=True)
    second = changed({"a": {"weights": 4}, "b": {"weights": 2}, "d": {}})
    with open_folder(second, OUT, resume=True) as folder:
        assert folder.changes == (
            "d is new",
            "b is done again, because weights is 3 there and 2 here",
            "c is no longer in the experiment, and the results leave it out",
        )
        assert [folder.is_done(name) for name in "abcd"] == [True, False, True, False]
        assert not folder.unfinished_path("b").exists()
        assert (OUT / "experiment.yaml").read_text() == dump(second)
    assert "b is done again" in (OUT / "run.log").read_text()
    with open_folder(second, OUT, resume=True) as folder:
        assert folder.changes == ()


def test_only_a_folder_that_is_named_has_variants_done_again() -> None:
    with open_folder(changed({"a": {"weights": 4}}), None, resume=False) as old:
        finish(old, "a")
    with open_folder(changed({"a": {"weights": 4}, "b": {}}), None, resume=True) as folder:
        assert folder.path == old.path
        assert folder.changes == ("b is new",)
    with (
        pytest.raises(SubbyteError, match="no run of this experiment"),
        open_folder(changed({"a": {"weights": 3}}), None, resume=True),
    ):
        pass
    assert old.is_done("a")


def test_the_command_that_goes_on_is_one_that_a_shell_takes() -> None:
    folder = Path("my runs/it's")
    command = command_to_resume(folder, ("a", "b c"))
    assert shlex.split(command) == [
        *("subbyte", "run", "my runs/it's/experiment.yaml", "--out", "my runs/it's", "--resume"),
        *("--only", "a", "--only", "b c"),
    ]
