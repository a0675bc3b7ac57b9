"""The errors that end a command with one line on stderr, and the exit code of each."""

import errno
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines.errors import Note, UserError

_FORMAT = warnings.formatwarning
# What the place of a file is to blame for, and not the program.
_PLACES = {
    getattr(errno, name)
    for name in (
        "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "ENAMETOOLONG", "ELOOP", "EACCES", "EPERM", "EROFS", "ENOSPC",
        "EDQUOT", "EFBIG", "EMFILE", "ENFILE", "EIO", "ESTALE", "ETXTBSY", "EBUSY", "ENOTEMPTY", "ENXIO", "ENOLCK",
    )
}  # fmt: skip


class LostProcess(RuntimeError):
    """Another process of the run, or its machine, has ended or does not answer."""


class Ended(BaseException):
    """A signal asks the process to end. It is no Exception, as KeyboardInterrupt is none."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it SIGTERM and a terminal that closes (SIGHUP, which nohup ignores) raise Ended, as Ctrl-C raises
    KeyboardInterrupt: the process would else die where it stands, and leave what it had begun."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(number)

    main = threading.current_thread() is threading.main_thread()  # which alone may say what signals do
    caught = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def exit_code(work: Callable[[], object]) -> int:
    """Do the work and return the process's exit code: 0, 1 (diverged), 2 (the user's mistake, or a place that cannot be
    read or written), 130 (Ctrl-C), 128 + n (signal n).

    These errors make one line on stderr; all others, and SystemExit, are raised. LostProcess ends the process here,
    with 1.
    """
    warnings.formatwarning = _format_warning
    try:
        with _ended_by_signals():
            work()
    except UserError as error:
        _tell(error)
        return 2
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        _tell(f"{error.filename or 'a file'}: {error.strerror}; make room or give another place, and start again", True)
        return 2
    except ArithmeticError as error:
        _tell(error, by_each=True)
        return 1
    except LostProcess as error:
        _tell(error, by_each=True)
        os._exit(1)  # an ordinary exit could wait for the communication library's threads for ever
    except Ended as error:
        _tell(error)
        return 128 + error.number
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    return 0


def _format_warning(message: Warning | str, *place: Any, **more: Any) -> str:
    return f"fastgen: {message}\n" if isinstance(message, Note) else _FORMAT(message, *place, **more)


def _point_there() -> None:
    """torchrun, which starts accelerate's several processes, reports each that failed, behind a traceback of its own.
    Nothing that a process does keeps it from that; but the reason that it gives is what lies in this file, and so it
    says where to look, in place of a link to its manual."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        text = "the line above that begins with fastgen says what is wrong"
        more = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": more}}))


def _tell(problem: object, by_each: bool = False) -> None:
    """by_each: of all processes that a launch has started on a machine, and not of the first alone."""
    _point_there()
    if by_each or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"fastgen: {' '.join(str(problem).split())}", file=sys.stderr, flush=True)
