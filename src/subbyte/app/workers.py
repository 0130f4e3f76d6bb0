"""The variants of a run in several processes of one machine; latency is measured by one alone."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from subbyte.app.run_folder import RunFolder
from subbyte.app.runner import Elsewhere, Finished, Tell
from subbyte.app.setup import Setup
from subbyte.app.worker import DONE, FAILED, GO, MEASURE, MEASURED, MISSED, SAID
from subbyte.errors import BudgetMissedError, SubbyteError
from subbyte.utils import cores
from subbyte.utils.progress import Progress

PATIENCE = 20.0  # seconds that a process has to end by itself
LOOK = 0.2  # seconds between looks for Ctrl-C
Process = subprocess.Popen[str]
Answer = tuple[str, SubbyteError | None]  # a variant, and why it came to nothing


def in_processes(count: int, tell: Tell) -> Elsewhere:
    """What runs variants in so many processes, each with its share of the threads.

    A process that is killed takes no other variant with it.

    Args:
        count: How many.
        tell: Takes the lines that say how far each of them is.
    """

    def run(setup: Setup, folder: RunFolder, names: Sequence[str], progress: Progress) -> Finished:
        del setup
        team = _Team(folder.path, min(count, max(1, len(names))), tell)
        for name in names:
            team.asked.put(name)
        with team.at_work():
            answers = (team.next_answer() for _ in names)
            yield from progress.track(answers, "variants", total=len(names))

    return run


@dataclass
class _Team:
    """Processes that share what is to be done.

    Attributes:
        folder: The run's.
        size: How many processes there are.
        tell: Takes what they say of how far they are.
        asked: The variants that nobody has begun.
        answered: The variants that are finished, or why they are not.
        processes: Those that live.
        machine: Held by whoever starts a process or has the machine alone.
        over: Whether nothing more is to be begun.
    """

    folder: Path
    size: int
    tell: Tell
    asked: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    answered: queue.SimpleQueue[Answer] = field(default_factory=queue.SimpleQueue)
    processes: set[Process] = field(default_factory=set)
    machine: threading.RLock = field(default_factory=threading.RLock)
    over: bool = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Work while it lasts; whatever process lives at its end is ended."""
        threads = [threading.Thread(target=self._employ, daemon=True) for _ in range(self.size)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._end()
            for thread in threads:
                thread.join(PATIENCE)

    def next_answer(self) -> Answer:
        """The next variant that is finished or failed, without keeping Ctrl-C waiting."""
        while True:
            try:
                return self.answered.get(timeout=LOOK)
            except queue.Empty:
                continue

    def _employ(self) -> None:
        """Let one process after the other work until nothing is left: a dead one is replaced."""
        process: Process | None = None
        while not self.over:
            try:
                name = self.asked.get_nowait()
            except queue.Empty:
                break
            try:
                process = process or self._start()
                error = self._done_by(process, name)
            except OSError as fault:  # no memory, no more processes
                error = SubbyteError(f"its process cannot be started ({fault})")
            if process is not None and process.poll() is not None:
                self.processes.discard(process)
                process = None
            self.answered.put((name, error))
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()

    def _start(self) -> Process:
        with self.machine, (self.folder / "run.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "subbyte.app.worker", str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env=cores.sharing(os.environ, self.size),
                start_new_session=True,  # Ctrl-C in a terminal is for this process to pass on
            )
            self.processes.add(process)
            return process

    def _done_by(self, process: Process, name: str) -> SubbyteError | None:
        """Have a variant done by a process; returns why it came to nothing."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _say(process.stdin, name)
            for line in iter(process.stdout.readline, ""):
                word, _, rest = line.strip().partition(" ")
                if word == MEASURE:
                    with self._alone(process):
                        _say(process.stdin, GO)
                        if process.stdout.readline().strip() != MEASURED:
                            break
                elif word == SAID:
                    self.tell(rest if rest.startswith(f"{name}:") else f"{name}: {rest}")
                elif word == DONE:
                    return None
                elif word == FAILED:
                    return SubbyteError(rest)
                elif word == MISSED:
                    return BudgetMissedError(rest)
        except BrokenPipeError:
            pass  # the process is dead, as its exit code will say
        return SubbyteError(_death(process.wait()))

    @contextmanager
    def _alone(self, process: Process) -> Iterator[None]:
        """Stop all other processes while it lasts, where the system can."""
        with self.machine:
            others = [other for other in self.processes if other is not process]
            if hasattr(signal, "SIGSTOP"):
                _signal(others, signal.SIGSTOP)
            try:
                yield
            finally:
                if hasattr(signal, "SIGCONT"):
                    _signal(others, signal.SIGCONT)

    def _end(self) -> None:
        """End the processes that live."""
        self.over = True
        living = [process for process in list(self.processes) if process.poll() is None]
        if hasattr(signal, "SIGCONT"):
            _signal(living, signal.SIGCONT)
        for process in living:
            process.terminate()
        for process in living:
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _say(stream: IO[str], line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def _signal(processes: Sequence[Process], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _death(code: int) -> str:
    """Why a process is no more."""
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name} (memory may have run out)"
    return f"its process ended with exit code {code}, see run.log"
