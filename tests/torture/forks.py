"""Work in forked children: of a process that has imported everything, which each child would need seconds for."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastgen.errors import exit_code

OK, REFUSED, KILLED, TRACEBACK, HANG = "ok", "refused", "killed", "traceback", "hang"
COUNT, DIE, TEAR, FULL, ONCE = 1, 2, 3, 4, 5  # modes of dying.c
_FAILED = 99  # exit code of a child with a traceback


@dataclass(frozen=True)
class Outcome:
    """How a child ended, and what it said."""

    kind: str
    said: str = ""
    operations: int = 0


class Child:
    """`work` in a process of its own. log: where stdout and stderr go. A UserError is "refused", as on a command line.

    armed: (root, mode, when) of dying.c. environment: what is added to the child's.
    """

    def __init__(
        self,
        work: Callable[[], object],
        log: Path,
        armed: tuple[Path, int, int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = log
        self._status: int | None = None
        self._counted = log.with_suffix(".operations")
        self._counted.unlink(missing_ok=True)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = _FAILED
            try:
                os.setsid()  # its signals are its own
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 1)
                os.dup2(1, 2)
                os.environ |= environment or {}
                code = self._work(work, armed)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def _work(self, work: Callable[[], object], armed: tuple[Path, int, int] | None) -> int:
        try:
            if armed:
                root, mode, when = armed
                dying().arm(os.fsencode(f"{root}/"), mode, ctypes.c_long(when))
            code = exit_code(work)
            if armed:
                count = dying().done()
                dying().arm(b"/nowhere", 0, ctypes.c_long(0))
                self._counted.write_text(str(count))
            return code
        except SystemExit as error:
            return int(error.code or 0)
        except BaseException:
            traceback.print_exc()
            return _FAILED

    def has_ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def wait(self, seconds: float = 120) -> Outcome:
        """Its outcome; a child that has not ended by then is killed, and is a hang."""
        deadline = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return Outcome(HANG, self._said())
            time.sleep(0.005)
        assert self._status is not None
        code, said = os.waitstatus_to_exitcode(self._status), self._said()
        counted = int(self._counted.read_text()) if self._counted.exists() else 0
        if code < 0:
            return Outcome(KILLED if -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) else TRACEBACK, said)
        if code == _FAILED or "Traceback" in said:
            return Outcome(TRACEBACK, said)
        return Outcome(OK if code == 0 else REFUSED, said, counted)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number) if number == signal.SIGKILL else os.kill(self.pid, number)

    def _said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def dying() -> ctypes.CDLL:
    """The preloaded library."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.done.restype = ctypes.c_long
    return library


def preloaded(folder: Path) -> dict[str, str]:
    """The environment of a process that can be attacked by dying.c, compiled into `folder`. Raises where no compiler is
    there."""
    library = folder / "dying.so"
    source = Path(__file__).with_name("dying.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}
