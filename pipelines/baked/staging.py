"""A copy of a baked set on a disk of this machine, for files that lie on a slow shared one."""

import shutil
from collections.abc import Callable
from pathlib import Path

from pipelines.baked.manifest import MANIFEST, BakedSet
from pipelines.durable import Refused, check_room, one_at_a_time, refusals, sync_folder


def staged(baked: Path, folder: Path, check: Callable[[Path], object] = BakedSet.open) -> Path:
    """The copy of the baked set `baked` in `folder`, made now if it is not there yet or the set has changed.

    Safe to call from several processes of a machine: one copies and opens the copy with `check`, which hashes it, and
    the others wait. The copy is written aside and renamed. One that is there is used even where the folder cannot be
    written. Raises UserError where the disk is too small, or the folder or the set cannot be used.
    """
    target, remedy = folder / baked.name, "leave data.stage out, or name a folder that can be written, on a larger disk"
    with refusals(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / f".{baked.name}.lock", lambda _: None) as refusal:
            if (target / MANIFEST).is_file() and (target / MANIFEST).read_bytes() == (baked / MANIFEST).read_bytes():
                return target
            if refusal is not None:
                raise Refused(f"{folder} cannot be written ({refusal.strerror}); {remedy}")
            _copy(baked, target, remedy)
            check(target)
    return target


def _copy(baked: Path, target: Path, remedy: str) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    for left in (target, temporary):
        if left.exists():
            shutil.rmtree(left)
    files = [path for path in baked.iterdir() if not path.name.startswith(".") and path.suffix != ".next"]
    check_room(target.parent, sum(path.stat().st_size for path in files), f"the copy of {baked}", remedy)
    temporary.mkdir()
    try:
        for path in files:
            shutil.copyfile(path, temporary / path.name)
        sync_folder(temporary)
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
