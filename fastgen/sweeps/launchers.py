"""Who starts trainings: what the executor asks of a launcher, and the launcher of this machine.

That one starts them as copies of a process that has imported what they need: multiprocessing's forkserver. Importing
PyTorch, its compiler (which its optimizers ask for) and the rest takes about four seconds of a core. A copy of a
process that has done so, a fork, begins at once and shares its memory. What cannot be copied is a device in use and
threads at work, so the forkserver only imports. For all else a training is as if it had been started on its own: its
log, cores, environment, signals, exit code, and what it computes, bit for bit. (NumPy's linear algebra, which trainings
hardly use, keeps as many threads as the forkserver has cores.)

A process has one forkserver, as long as it lives: what the first sweep preloads stays, and a later one that needs more
imports it in each training. joblib's loky would import everything anew in each, or train several in one process.
"""

import atexit
import fcntl
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Protocol, Self

from fastgen.errors import exit_code
from fastgen.runs.folder import RECIPE

_FORKSERVER = multiprocessing.get_context("forkserver")
# What a terminal or a cluster sends to all processes at once: the sweep alone should hear it, and stop its trainings.
_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class Training:
    """`fastgen train ARGUMENTS` in a run directory, which goes on where it was. What it says is added to `log`."""

    arguments: tuple[str, ...]
    folder: Path
    log: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def begin(self) -> list[str]:
        """All arguments, to be asked for when it begins, and not when it is submitted: what died before it had written
        its recipe leaves a folder that is removed here."""
        arguments = [*self.arguments, f"run.dir={self.folder}"]
        if (self.folder / RECIPE).is_file():
            return [*arguments, "run.resume=true"]
        shutil.rmtree(self.folder, ignore_errors=True)
        return arguments


class Launcher(Protocol):
    """A context manager, within which trainings can be started. Each has a name of its own."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def running(self) -> frozenset[str]:
        """Names of those that were started, by this sweep or one before, and whose end has not been told."""

    @property
    def queued(self) -> frozenset[str]:
        """Names of those among them that wait for a machine."""

    @property
    def takes_more(self) -> bool:
        """Whether `start` may be called now."""

    def start(self, training: Training) -> None: ...

    def ended(self) -> list[tuple[str, int]]:
        """Name and exit code (negative: the signal that killed it) of each training that ended since the last call."""


class LocalLauncher:
    """Trainings on this machine, which are stopped at its end.

    modules: names of what is imported beforehand. lock: a file on which each training holds a shared lock as long as it
    lives, whatever becomes of this process; nobody may hold an exclusive one meanwhile. cores: of each of the trainings
    that run at a time.
    """

    queued: frozenset[str] = frozenset()

    def __init__(self, modules: list[str], lock: Path, cores: list[tuple[int, ...]]) -> None:
        self._modules, self._lock, self._free = modules, lock, list(cores)
        self._running: dict[str, tuple[BaseProcess, tuple[int, ...]]] = {}

    def __enter__(self) -> Self:
        _FORKSERVER.set_forkserver_preload(self._modules)
        resource_tracker.ensure_running()  # which the forkserver needs, and whose start unblocks signals
        former = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)  # in the forkserver, too, for all its life
        forkserver.ensure_running()
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._running.values():
            process.terminate()  # SIGTERM, upon which it leaves a checkpoint
        for process, _ in self._running.values():
            process.join()

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._running)

    @property
    def takes_more(self) -> bool:
        return bool(self._free)

    def start(self, training: Training) -> None:
        """The first call returns once the forkserver has imported everything. Raises RuntimeError if it has ended."""
        cores = self._free.pop(0)
        work = (training, cores, dict(os.environ), self._modules, self._lock)
        process = _FORKSERVER.Process(target=_train, args=work, name=training.name)
        try:
            with _no_main_module():
                process.start()
        except (EOFError, ConnectionError):
            raise RuntimeError("the process that starts trainings has ended; what it said is above") from None
        self._running[training.name] = process, cores

    def ended(self) -> list[tuple[str, int]]:
        codes = [(name, process.exitcode) for name, (process, _) in self._running.items()]
        found = [(name, code) for name, code in codes if code is not None]
        self._free += [self._running.pop(name)[1] for name, _ in found]
        return found


@contextmanager
def _no_main_module() -> Iterator[None]:
    """multiprocessing would import the program's main module in every process, which no training needs."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _train(
    training: Training, cores: tuple[int, ...], environment: dict[str, str], modules: list[str], lock: Path
) -> None:
    os.setpgrp()  # the terminal's signals reach the sweep alone; a session of its own would have its own priority
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    with open(training.log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    fcntl.flock(os.open(lock, os.O_RDWR), fcntl.LOCK_SH | fcntl.LOCK_NB)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.sched_setaffinity(0, cores)
    os.environ.clear()
    os.environ.update(environment)
    for module in modules:
        importlib.import_module(module)
    import torch

    from fastgen.recipe.load import parse
    from fastgen.training.loop import train

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(cores))  # which it counts when it is imported
    arguments = training.begin()
    sys.argv = ["fastgen", "train", *arguments]
    try:
        sys.exit(exit_code(lambda: train(parse(arguments))))
    finally:
        atexit._run_exitfuncs()  # W&B writes a run that fails in one; multiprocessing calls them from Python 3.13 on


def _end_with_parent() -> None:
    """Send this process a SIGTERM when its parent has ended, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
