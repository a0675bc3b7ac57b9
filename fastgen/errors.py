"""The errors that end a command with one line on stderr, and the exit code of each."""

import errno
import os
import sys
import warnings
from collections.abc import Callable
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


def exit_code(work: Callable[[], object]) -> int:
    """Do the work and return the process's exit code: 0, 1 (diverged), 2 (the user's mistake, or a place that cannot be
    read or written), 130 (Ctrl-C).

    These errors make one line on stderr; all others, and SystemExit, are raised. LostProcess ends the process here,
    with 1.
    """
    warnings.formatwarning = _format_warning
    try:
        work()
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine, not once a process
            _tell(error)
        return 2
    except OSError as error:
        if error.errno not in _PLACES:
            raise
        _tell(f"{error.filename or 'a file'}: {error.strerror}; make room or give another place, and start again")
        return 2
    except ArithmeticError as error:
        _tell(error)
        return 1
    except LostProcess as error:
        _tell(error)
        os._exit(1)  # an ordinary exit could wait for the communication library's threads for ever
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    return 0


def _format_warning(message: Warning | str, *place: Any, **more: Any) -> str:
    return f"fastgen: {message}\n" if isinstance(message, Note) else _FORMAT(message, *place, **more)


def _tell(problem: object) -> None:
    print(f"fastgen: {' '.join(str(problem).split())}", file=sys.stderr, flush=True)
