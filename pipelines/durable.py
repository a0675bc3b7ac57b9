"""Files that are whole or not there, that are on the disk when a function returns, and that one process changes."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from pipelines.errors import UserError


class Refused(UserError):
    """What the system would not do: no space left, a read-only folder, no permission, a file in a folder's place.

    The data and the settings are right, so that the same command succeeds when the cause is gone.
    """


@contextmanager
def refusals(place: Path, remedy: str) -> Iterator[None]:
    """Tell an OSError of the block in one line: the file that it names, or `place`, the system's reason, `remedy`."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{error.filename or place}: {error.strerror or error}; {remedy}") from error


def check_place(folder: Path, remedy: str) -> None:
    """Raises Refused where nothing can be written to `folder`, or where it cannot be made; before long work, whose
    outcome would be lost. Leaves nothing there."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise Refused(f"{folder} cannot be written ({error.strerror}); {remedy}") from error


def check_room(folder: Path, need: int, what: str, remedy: str) -> None:
    """Raises Refused where the disk of `folder` has less than `need` bytes free for `what`."""
    free = shutil.disk_usage(folder).free
    if need > free:
        raise Refused(f"{folder} has {free / 1e9:.1f} GB free and {what} needs about {need / 1e9:.1f}; {remedy}")


def sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def aside(path: Path) -> Path:
    """Where `write_atomically` and `write_durably` write what will become `path`."""
    return path.with_name(f".{path.name}.tmp")


def write_durably(path: Path, content: str | bytes) -> None:
    """`write_atomically`, and on the disk when it returns."""
    write_atomically(path, content, last=True)


def write_atomically(path: Path, content: str | bytes, last: bool = False) -> None:
    """Write aside and rename: a reader finds the old content or the new one, and a full disk leaves the old one.

    last: flush to the disk before and after renaming. Raises OSError, and UserError where `path` is no regular file.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file that can be replaced; name another one")
    data = content.encode() if isinstance(content, str) else content
    try:
        if not aside(path).is_file():  # a pipe would be waited for
            with suppress(FileNotFoundError):
                aside(path).unlink()
        with open(aside(path), "wb") as file:
            file.write(data)
            if last:
                sync(file)
        os.replace(aside(path), path)
    except OSError as error:
        with suppress(OSError):
            aside(path).unlink()
        error.filename = os.fspath(path)  # not what is written aside
        raise
    if last:
        sync_folder(path.parent)


def read_regular(path: Path) -> bytes:
    """The content of a regular file. Raises OSError for what is none: a pipe would be waited for."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
        return file.read()


def share(path: Path, folder: Path) -> None:
    """Let those read and write `path`, a file or folder, who may do so in `folder`, whatever the umask is."""
    with suppress(OSError):  # a file system without such rights
        path.chmod(_file_mode(folder) | (folder.stat().st_mode & 0o111 | 0o100 if path.is_dir() else 0))


def _file_mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o666 | 0o600


@contextmanager
def one_at_a_time(lock: Path, say: Callable[[str], None]) -> Iterator[OSError | None]:
    """One process in the block, the others wait for it. Yields None, or why the lock's file cannot be made or opened (a
    read-only cache, another user's): then nobody is waited for, and the block may only read.

    The system frees the lock of a process that dies, so that a file which is left means nothing. say: is told that
    another process is waited for.
    """
    held = FileLock(lock, mode=_file_mode(lock.parent))
    try:
        held.acquire(timeout=0)
    except Timeout:
        say(f"waiting for another process, which holds {lock}")
        held.acquire()
    except OSError as error:
        yield error
        return
    try:
        yield None
    finally:
        held.release()
