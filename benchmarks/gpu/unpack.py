"""On a GPU machine without a network: unpacks what pack.py packed. Needs Python alone.

    python benchmarks/gpu/unpack.py FOLDER ... TARGET && . TARGET/env.sh

Each FOLDER is one of pack.py's; TARGET keeps pieces of bundles until the others have come, so this is run again for
each that does. env.sh sets PYTHONPATH, to this copy of fastgen and the packages, and FASTGEN_DATA.
"""

import hashlib
import json
import os
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def is_whole(path: Path, piece: dict[str, str]) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == piece["sha256"]


def unpack(folder: Path, target: Path) -> list[str]:
    """Prints which bundles are unpacked; returns the damaged pieces, which must be brought again."""
    kept = target / "pieces"
    kept.mkdir(parents=True, exist_ok=True)
    damaged = []
    for bundle, pieces in json.loads((folder / "manifest.json").read_text()).items():
        done = kept / f"{bundle}.unpacked"
        if done.exists():
            print(f"{bundle}: unpacked")
            continue
        for piece in pieces:
            arrived = folder / piece["name"]
            if is_whole(arrived, piece):
                shutil.copyfile(arrived, kept / arrived.name)
            elif arrived.exists():
                damaged.append(str(arrived))
        whole = [kept / piece["name"] for piece in pieces if is_whole(kept / piece["name"], piece)]
        if len(whole) == len(pieces):
            extract(whole, target)
            done.touch()
        state = "unpacked" if done.exists() else f"{len(whole)} of {len(pieces)} pieces"
        print(f"{bundle}: {state}")
    return damaged


def extract(pieces: list[Path], target: Path) -> None:
    joined = pieces[0].with_suffix(".joined")
    with joined.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
            piece.unlink()
    with tarfile.open(joined) as archive:
        archive.extractall(target, filter="data")
    joined.unlink()


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *folders, target = map(Path, sys.argv[1:])
    target = target.resolve()
    damaged = [piece for folder in folders for piece in unpack(folder, target)]
    path = os.pathsep.join([str(target / "site"), str(ROOT)])
    lines = {"PYTHONPATH": path, "FASTGEN_DATA": str(target / "data")}
    (target / "env.sh").write_text("".join(f"export {key}={shlex.quote(value)}\n" for key, value in lines.items()))
    if damaged:
        sys.exit(f"damaged, bring again: {', '.join(damaged)}")


if __name__ == "__main__":
    main()
