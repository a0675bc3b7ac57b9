"""A process that has imported what trainings need, and starts each of them as a copy of itself.

Importing PyTorch, its compiler (which its optimizers ask for) and the rest takes about four seconds of a core. A copy
of a process that has done so, a fork, begins at once and shares its memory. What cannot be copied is a device in use
and threads at work, so this process only imports. For all else a training is as if it had been started on its own: its
log, cores, environment, signals, exit code, and what it computes, bit for bit. (NumPy's linear algebra,
which trainings hardly use, keeps as many threads as this process has cores.)

Those who started it talk to it over a pipe: they send (name, arguments, log, cores), and hear (name, exit code).
"""

import ctypes
import importlib
import os
import signal
import subprocess
import sys
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

_POLL_SECONDS = 0.1
_Request = tuple[str, list[str], str, tuple[int, ...]]


class Preloaded:
    """A context manager: within it trainings can be started; at its end those that still run are stopped.

    modules: names of what is imported beforehand. log: a file for what the process itself says, which is nothing unless
    it fails. keep: a file descriptor that stays open as long as it or a training lives, whatever becomes of this one.
    """

    def __init__(self, modules: list[str], log: Path, keep: int) -> None:
        self._modules, self._log, self._keep = modules, log, keep

    def __enter__(self) -> "Preloaded":
        self._connection, theirs = Pipe()
        with theirs, open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fastgen.sweeps.launchers", str(theirs.fileno()), *self._modules],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then asks its trainings to stop
                preexec_fn=_end_with_parent,
                pass_fds=[theirs.fileno(), self._keep],
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()  # and its trainings with it: SIGTERM, upon which they leave a checkpoint
        try:
            while True:  # they hold the other end of the pipe until they have ended
                self._connection.recv()
        except (EOFError, ConnectionError):
            self._connection.close()
        self._process.wait()

    def start(self, name: str, arguments: list[str], log: Path, cores: tuple[int, ...]) -> None:
        """Start `fastgen train ARGUMENTS` on these cores; what it says is added to `log`. name: for `ended`."""
        request: _Request = (name, arguments, str(log), cores)
        try:
            self._connection.send(request)
        except ConnectionError:
            raise self._failure() from None

    def ended(self) -> list[tuple[str, int]]:
        """Name and exit code (negative: the signal that killed it) of each training that ended since the last call."""
        found = []
        try:
            while self._connection.poll():
                found.append(self._connection.recv())
        except (EOFError, ConnectionError):
            raise self._failure() from None
        return found

    def _failure(self) -> RuntimeError:
        return RuntimeError(
            f"the process that starts trainings has ended; what it said: {self._log.read_text()[-2000:]}"
        )


def _end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the parent has ended, however that ended."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _serve(connection: Connection) -> int:
    """Start what is asked for and tell what has ended, until the other side has. In each copy: train."""
    running: dict[int, str] = {}
    while True:
        if connection.poll(_POLL_SECONDS):
            try:
                request: _Request = connection.recv()
            except EOFError:
                return 0
            own = os.getpid()
            pid = os.fork()
            if not pid:
                return _train(own, *request)
            running[pid] = request[0]
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection.send((running.pop(pid), os.waitstatus_to_exitcode(status)))


def _train(parent: int, name: str, arguments: list[str], log: str, cores: tuple[int, ...]) -> int:
    _end_with_parent()
    if os.getppid() != parent:
        return 1  # it ended before the kernel was asked
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.sched_setaffinity(0, cores)
    import torch

    from fastgen import cli

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(cores))  # which it counts when it is imported
    sys.argv = ["fastgen", "train", *arguments]
    return cli.main(sys.argv[1:])


def main() -> int:
    """python -m fastgen.sweeps.launchers FILE_DESCRIPTOR MODULE ..."""
    # Python 3.12 counts the idle threads of OpenBLAS and jemalloc, which see to forks themselves.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    with Connection(int(sys.argv[1])) as connection:
        for module in sys.argv[2:]:
            importlib.import_module(module)
        return _serve(connection)


if __name__ == "__main__":
    sys.exit(main())
