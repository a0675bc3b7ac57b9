"""What a baked set is, and how to prove it.

A baked set is a folder: train.beton, val.beton (where the source has a test split) and manifest.json, which is
written last. The manifest says what the files were made from and holds a hash of every byte of them.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.baked.beton import JPEG, Beton, Hashes
from pipelines.errors import UserError

SCHEMA = 1
MANIFEST = "manifest.json"
_STAMP = ".checked.json"


@dataclass
class Column:
    """One labelling in the file: what made it, and how many samples it changed."""

    spec: dict[str, Any]
    changed: int


@dataclass
class Split:
    """One file. image: its size in pixels (None where they differ) and number of JPEG files. Hashes: as in `Hashes`."""

    file: str
    bytes: int
    samples: int
    image: dict[str, Any]
    columns: dict[str, Column]
    table_sha256: str
    payload_sha256: list[str]


@dataclass
class Manifest:
    """manifest.json. specification: what the payload was made from (the source with its fingerprint, pixel corruption,
    encoding, order). made_by: versions of fastgen and of the encoders, as `pipelines.provenance` gives them."""

    specification: dict[str, Any]
    class_names: list[str]
    channels: int
    splits: dict[str, Split]
    made_by: dict[str, str]
    schema: int = SCHEMA

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @staticmethod
    def load(path: Path) -> "Manifest":
        try:
            fields = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(
                f"{path.parent} is no baked set (it has no {MANIFEST}); make one with `fastgen bake recipe=...`"
            ) from None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete {path.parent} and bake again") from None
        if fields.get("schema") != SCHEMA:
            raise UserError(
                f"{path} has schema {fields.get('schema')}, this version reads {SCHEMA}; "
                f"delete {path.parent} and bake again"
            )
        for split in fields["splits"].values():
            split["columns"] = {name: Column(**column) for name, column in split["columns"].items()}
        fields["splits"] = {name: Split(**split) for name, split in fields["splits"].items()}
        return Manifest(**fields)


@dataclass
class BakedSet:
    """An open, checked baked set. sha256: of manifest.json as it lies on the disk. splits: the open file of each."""

    path: Path
    manifest: Manifest
    sha256: str
    splits: dict[str, Beton] = field(default_factory=dict)

    @staticmethod
    def open(path: str | Path, full: bool = False, expect: str | None = None) -> "BakedSet":
        """Open a folder and check it against its manifest: the sizes and the hash of all tables, always.

        The payload is hashed with full=True, or when the files are not those of the last check (another size, time
        stamp or inode: copied, touched, replaced). expect: the manifest's hash that the caller relies on.

        Raises UserError naming the first file that does not match, and the remedy.
        """
        path = Path(path)
        manifest = Manifest.load(path / MANIFEST)
        digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
        if expect is not None and digest != expect:
            raise UserError(f"{path}: the manifest changed (its hash is {digest[:12]}, expected {expect[:12]})")
        baked = BakedSet(path, manifest, digest)
        stamp = baked._stamp()
        known = not full and _read_json(path / _STAMP) == stamp
        for name, split in manifest.splits.items():
            baked.splits[name] = _check(path, split, payload=not known)
        if not known:
            baked.write_stamp(stamp)
        return baked

    def write_stamp(self, stamp: dict[str, Any] | None = None) -> None:
        """Remember that these very files were hashed and found whole."""
        with suppress(OSError):  # a read-only cache is hashed at every start instead
            temporary = self.path / f"{_STAMP}.{os.getpid()}"
            temporary.write_text(json.dumps(stamp or self._stamp()))
            temporary.replace(self.path / _STAMP)

    def _stamp(self) -> dict[str, Any]:
        files: dict[str, Any] = {"manifest": self.sha256}
        for split in self.manifest.splits.values():
            with suppress(FileNotFoundError):  # _check names it
                stat = (self.path / split.file).stat()
                files[split.file] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        return files


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _check(folder: Path, split: Split, payload: bool) -> Beton:
    path = folder / split.file
    remedy = f"it is damaged or was replaced; delete {folder} and bake again"
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}")
    size = path.stat().st_size
    if size != split.bytes:
        raise UserError(f"{path} has {size:,} bytes where the manifest says {split.bytes:,}: {remedy}")
    beton = Beton(path)
    found = beton.hashes(payload=payload)
    if found.table != split.table_sha256:
        raise UserError(f"{path}: labels or tables differ from what the manifest's hash says: {remedy}")
    if payload and found.payload != split.payload_sha256:
        part = next(
            (i for i, pair in enumerate(zip(found.payload, split.payload_sha256, strict=False)) if len(set(pair)) > 1),
            min(len(found.payload), len(split.payload_sha256)),
        )
        raise UserError(f"{path}: images in payload part {part} differ from the manifest's hash: {remedy}")
    return beton


def describe(path: Path, beton: Beton, hashes: Hashes, columns: dict[str, Column]) -> Split:
    """The manifest's entry for a file just written."""
    height, width = beton.fixed_size or (None, None)
    image = {"height": height, "width": width, "jpeg_files": int((beton.mode == JPEG).sum())}
    return Split(path.name, path.stat().st_size, beton.samples, image, columns, hashes.table, hashes.payload)
