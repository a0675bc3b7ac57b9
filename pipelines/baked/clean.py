"""What lies in the cache, and which of it may go: sets by age and size, and what processes that died left behind.

A process that bakes or copies holds its set's lock, one that reads a set a shared lock on its files; both stay.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.baked.bake import leftovers, lock_of, unfinished_of
from pipelines.baked.export import dead_exports
from pipelines.baked.manifest import MANIFEST, last_used, named_by_cache
from pipelines.durable import refusals

SET, LEFTOVER = "set", "left by a process that died"


@dataclass(frozen=True)
class Entry:
    """A set, or what was left behind. used: when last, in seconds since 1970. owner: the set's folder whose lock guards
    it, None where nothing does."""

    path: Path
    kind: str
    bytes: int
    used: float
    owner: Path | None


def entries(folder: Path) -> list[Entry]:
    """What is in a folder of baked sets (the cache's, or one of staged copies) or of exports; finished exports are not.

    What a process holds just now is left out. The least recently used come first.
    """
    found = [_entry(path, LEFTOVER, None) for path in dead_exports(folder)]
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and (path / MANIFEST).is_file() and any(path.glob("*.beton")):  # a run's folder has none
            found.append(_entry(path, SET, path))
            found += [_entry(left, LEFTOVER, path) for left in leftovers(path)]
        elif path.name.startswith(".") and named_by_cache(path.stem):
            owner = path.with_name(path.stem.removeprefix("."))
            kept = owner.exists() or unfinished_of(owner).exists()
            ours = path.suffix in (".unfinished", ".tmp") and path.is_dir() and lock_of(owner).exists()
            if ours or (path == lock_of(owner) and path.is_file() and not kept):
                found.append(_entry(path, LEFTOVER, owner))
    return sorted((entry for entry in found if _free(entry)), key=lambda entry: (entry.used, entry.path))


def to_remove(found: list[Entry], older_than: float | None = None, keep: float | None = None) -> list[Entry]:
    """What died left behind, sets that were not used for `older_than` days, and the least recently used sets beyond
    `keep` bytes in all."""
    chosen = []
    total = sum(entry.bytes for entry in found if entry.kind == SET)
    for entry in found:
        old = older_than is not None and time.time() - entry.used > older_than * 86400
        if entry.kind == LEFTOVER or old or (keep is not None and total > keep):
            chosen.append(entry)
            total -= entry.bytes if entry.kind == SET else 0
    return chosen


def remove(entry: Entry) -> bool:
    """Whether it could be removed: not while another process uses it. Raises UserError without the right to."""
    with refusals(entry.path, "let its owner remove it"), _alone(entry) as alone:
        if not alone:
            return False
        path = entry.path
        if entry.kind == SET:
            # First out of its place: a set is whole, or it is not there.
            path = unfinished_of(entry.path)
            shutil.rmtree(path, ignore_errors=True)
            entry.path.rename(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return True


def _free(entry: Entry) -> bool:
    with _alone(entry) as alone:
        return alone


@contextmanager
def _alone(entry: Entry) -> Iterator[bool]:
    """Whether nobody else uses it, which holds in the block."""
    with ExitStack() as held:
        try:
            if entry.owner is not None:
                held.enter_context(FileLock(lock_of(entry.owner), timeout=0))
            for file in entry.path.glob("*.beton") if entry.kind == SET else ():
                fcntl.flock(held.enter_context(open(file, "r+b")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except (Timeout, OSError):  # or another user's, who alone can remove it
            alone = False
        yield alone


def _entry(path: Path, kind: str, owner: Path | None) -> Entry:
    size, used = 0, 0.0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):  # removed meanwhile
            size += file.lstat().st_size if not file.is_dir() else 0
    with suppress(OSError):
        used = last_used(path) if kind == SET else path.lstat().st_mtime
    return Entry(path, kind, size, used, owner)
