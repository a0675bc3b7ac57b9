"""Files as they lie in folders: links are followed, only regular files are read, and whatever else is named."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import UserError

_SYSTEM = {
    "__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db",
    "desktop.ini",
}  # fmt: skip
FILE, FOLDER, BROKEN = "a file", "a folder", "a broken link"
_KINDS = (
    (stat.S_ISREG, FILE), (stat.S_ISDIR, FOLDER), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"),
)  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or a system's, and so no part of a data set: caches hold second copies."""
    return name.startswith(".") or name in _SYSTEM


def listed(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, kind) of what lies in a folder and is not hidden; a link's kind is that of what it leads to.

    kind: FILE, FOLDER, BROKEN, or in words what else it is. Raises UserError for a folder that cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    yield entry.name, _kind(entry)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_file(follow_symlinks=False):  # known without a further look at the disk
        return FILE
    try:
        mode = entry.stat().st_mode
    except OSError:  # leads nowhere, or to itself
        return BROKEN
    return next((kind for holds, kind in _KINDS if holds(mode)), "a device")


def folders_in(folder: Path) -> list[str]:
    """The sorted names of the folders, and of links to folders, in a folder. Raises UserError naming a broken link."""
    found = sorted(listed(folder))
    for name, kind in found:
        if kind is BROKEN:
            raise _broken(folder / name)
    return [name for name, kind in found if kind is FOLDER]


def _broken(path: Path) -> UserError:
    return UserError(f"{path} is {BROKEN}, so what belongs there is missing; mend or remove it")


@dataclass
class Walk:
    """The files of one split, however many folders they lie in.

    wanted: says by its name whether a file is read. skipped: says the same of what is passed over without a word.
    folders_too: whether a folder may have such a name. unread: the number of files that are not wanted, by suffix.
    """

    wanted: Callable[[str], bool]
    skipped: Callable[[str], bool] = is_hidden
    folders_too: bool = False
    unread: Counter[str] = field(default_factory=Counter)
    _seen: dict[tuple[int, int], Path] = field(default_factory=dict)

    def files(self, folder: Path) -> list[Path]:
        """The wanted files below a folder, sorted.

        Raises UserError naming a file that is not regular, a broken link, and a folder that links lead to twice or that
        all of this lies in: its files would be read twice, or for ever.
        """
        found, ahead = [], [folder]
        for above in folder.resolve().parents:
            self._enter(above, again=True)
        while ahead:
            here = ahead.pop()
            self._enter(here)
            for name, kind in listed(here):
                if self.skipped(name):
                    continue
                wanted, path = self.wanted(name), here / name
                if kind is BROKEN:
                    raise _broken(path)
                if kind is FOLDER and (self.folders_too or not wanted):
                    ahead.append(path)
                elif wanted and kind is not FILE:
                    raise UserError(f"{path} is {kind}, and only regular files are read; remove or rename it")
                elif wanted:
                    found.append(path)
                elif kind is FILE:
                    self.unread[os.path.splitext(name)[1].lower() or "no suffix"] += 1
        return sorted(found)

    def any_file(self, folder: Path) -> bool:
        """Whether there is anything below a folder but folders. What `files` would refuse counts: it is named there."""
        found = [(name, kind) for name, kind in listed(folder) if not self.skipped(name)]
        if any(kind is not FOLDER or self.wanted(name) for name, kind in found):
            return True
        self._enter(folder)
        return any(self.any_file(folder / name) for name, _ in found)

    def _enter(self, folder: Path, again: bool = False) -> None:
        try:
            status = folder.stat()
        except OSError as error:
            raise UserError(f"{folder}: cannot be entered ({error.strerror})") from error
        before = self._seen.setdefault((status.st_dev, status.st_ino), folder)
        if before is not folder and not again:
            raise UserError(f"{folder} is by links the same folder as {before}: its files would count again; remove it")


def read_regular(path: Path) -> bytes:
    """A regular file's bytes. Raises UserError for whatever else has taken its place (a FIFO would be waited for)."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is no regular file, and only these are read; remove or rename it")
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable, or remove it") from error
