"""Places where a process can die or a disk be full: flushes, renames, removals, new files and folders, and each file's
first writes of some work."""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

DIED = 77  # the exit code of a process that died at its point
_CALLS = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "copy_file_range", "chmod", "utime")
_FREEING = ("unlink", "rmdir", "rename", "replace")  # which a full disk does not stop


class _Torn(io.BufferedRandom):
    """A file in which a write that is stopped has written half."""

    point: Callable[..., None]
    writes = 0

    def write(self, data):  # type: ignore[no-untyped-def]
        def half() -> None:
            with suppress(OSError):
                io.BufferedRandom.write(self, bytes(memoryview(data).cast("B")[: len(data) // 2]))
                self.flush()

        self.writes += 1
        if self.writes <= 2:
            self.point("write", half)
        return super().write(data)


@contextmanager
def watched(below: Path, stop: Callable[[int, str], None]) -> Iterator[list[str]]:
    """Call stop(number, name) at each point that concerns a file below a folder. Yields the names so far."""
    points: list[str] = []
    real_open = builtins.open

    def point(name: str, torn: Callable[[], None] = lambda: None) -> None:
        points.append(name)
        try:
            stop(len(points), name)
        except BaseException:
            torn()
            raise

    def ours(path: object) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(str(below))

    def opening(path, mode="r", *args, **kwargs):  # type: ignore[no-untyped-def]
        if not ours(path) or set(mode) <= set("rbt"):
            return real_open(path, mode, *args, **kwargs)
        point("open")
        raw = io.FileIO(path, mode.replace("b", "").replace("w", "w+").replace("a", "a+").replace("++", "+"))
        file = _Torn(raw)
        file.point = point
        return file if "b" in mode else io.TextIOWrapper(file)

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(first, *args, **kwargs):  # type: ignore[no-untyped-def]
            if isinstance(first, int) or ours(first):
                point(name)
            return original(first, *args, **kwargs)

        return call

    calls = {name: counted(name, getattr(os, name)) for name in _CALLS}
    with (
        mock.patch.object(builtins, "open", opening),
        mock.patch.object(io, "open", opening),
        mock.patch.multiple(os, **calls),
    ):
        yield points


def deaths(below: Path, work: Callable[[], object]) -> Callable[[int], bool]:
    """A function of n: do the work in a process of its own that dies at its nth point. Returns whether it got there."""

    def die_at(n: int) -> bool:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with watched(below, lambda number, _: os._exit(DIED) if number == n else None):
                    work()
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, DIED), f"at point {n} the work ended with {code}"
        return code == DIED

    return die_at


def full_disk(at: int, for_good: bool) -> Callable[[int, str], None]:
    """For `watched`: the disk is full at a point, or from there on for good (then files can still be removed)."""

    def stop(number: int, name: str) -> None:
        if number == at or (for_good and number > at and name not in _FREEING):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return stop
