"""A copy of a baked set on a disk of this machine, for files that lie on a slow shared one."""

import shutil
from pathlib import Path

from filelock import FileLock

from pipelines.baked.manifest import MANIFEST
from pipelines.durable import check_room


def staged(baked: Path, folder: Path) -> Path:
    """The copy of the baked set `baked` in `folder`, made now if it is not there yet or the set has changed.

    Safe to call from several processes of a machine: one copies, the others wait. The copy is written aside and
    renamed; `BakedSet.open` hashes it when it is opened first. Raises UserError where the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / baked.name
    with FileLock(folder / f".{baked.name}.lock"):
        if target.is_dir():
            if (target / MANIFEST).read_bytes() == (baked / MANIFEST).read_bytes():
                return target
            shutil.rmtree(target)
        files = [path for path in baked.iterdir() if not path.name.startswith(".")]
        need = sum(path.stat().st_size for path in files)
        check_room(folder, need, f"the copy of {baked}", "leave data.stage out, or name a larger disk with it")
        temporary = folder / f".{baked.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for path in files:
            shutil.copyfile(path, temporary / path.name)
        temporary.rename(target)
    return target
