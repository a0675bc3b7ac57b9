"""What a baked set is, and how to prove it.

A baked set is a folder: train.beton, val.beton (where the source has a test split) and manifest.json, which is
written last. The manifest says what the files were made from and holds a hash of every byte of them.
"""

import hashlib
import json
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AfterValidator, Field

from pipelines.baked.beton import JPEG, Beton, Hashes
from pipelines.baked.notes import Count, Sha256, as_, contents, digest, parsed, sealed, unsealed
from pipelines.corruptions import LABELS, LabelSpec
from pipelines.durable import read_regular, share, write_atomically
from pipelines.errors import UserError
from pipelines.sources import SPLITS

SCHEMA: Final = 2  # 1 had no hash of itself: run directories may hold such copies, and sets are baked again
MANIFEST = "manifest.json"
STAMP = ".checked.json"
_COLUMN_SECONDS = 2.0  # to wait for a process that is just renaming a file with one more column
_Side = Annotated[int, Field(ge=1, le=65535)]


@dataclass
class Column:
    """One labelling in the file: what made it (the fields of a LabelSpec that are not None), and how many samples it
    changed."""

    spec: Annotated[dict[str, Any], as_(LabelSpec)]
    changed: Count


@dataclass
class Images:
    """The images of a file. height, width: pixels, None where they differ. jpeg_files: how many are JPEG files."""

    height: _Side | None
    width: _Side | None
    jpeg_files: Count


@dataclass
class Split:
    """One file. Hashes: as in `Hashes`."""

    file: str
    bytes: Count
    samples: Annotated[int, Field(ge=1, lt=1 << 63)]
    image: Images
    columns: dict[str, Column]
    table_sha256: Sha256
    payload_sha256: list[Sha256]


@dataclass
class _Pixels:
    kind: str
    seed: int
    patch: _Side
    window: _Side | None = None


@dataclass
class _Encoding:
    encoding: Literal["raw", "jpeg"]
    resolution: _Side | None
    square: bool
    quality: Annotated[int, Field(ge=1, le=100)] | None = None


def _as_specification(value: dict[str, Any]) -> dict[str, Any]:
    """The parts that readers rely on; a specification may say more."""
    if not isinstance(value.get("source"), dict) or not isinstance(value["source"].get("source"), str):
        raise ValueError("source names none")
    parsed(_Pixels, value.get("pixels"))
    parsed(_Encoding, value.get("image"))
    parsed(dict[str, str], value.get("fingerprints"))
    return value


def _as_channels(value: int) -> int:
    if value not in (1, 3):
        raise ValueError(f"{value} is neither 1 nor 3")
    return value


def _as_splits(value: dict[str, Split]) -> dict[str, Split]:
    if "train" not in value or not set(value) <= set(SPLITS):
        raise ValueError(f"a set has the splits {' and '.join(SPLITS)}")
    for name, split in value.items():
        if split.file != f"{name}.beton":
            raise ValueError(f"{name}.file: is {name}.beton")
        if not split.columns:
            raise ValueError(f"{name}.columns: a file has a labelling")
    return value


@dataclass
class Manifest:
    """manifest.json. specification: what the payload was made from (the source with its fingerprint, pixel corruption,
    encoding, order). made_by: versions of fastgen and of the encoders, as `pipelines.provenance` gives them."""

    specification: Annotated[dict[str, Any], AfterValidator(_as_specification)]
    class_names: Annotated[list[str], Field(min_length=1)]
    channels: Annotated[int, AfterValidator(_as_channels)]
    splits: Annotated[dict[str, Split], AfterValidator(_as_splits)]
    made_by: dict[str, str]
    schema: Literal[1, 2] = SCHEMA

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def identity(self) -> str:
        """The hash of what stays when a label column is added: specification, classes and images."""
        payloads = {name: split.payload_sha256 for name, split in self.splits.items()}
        return digest([self.specification, self.class_names, self.channels, payloads])

    def to_json(self) -> str:
        return sealed(self)

    @staticmethod
    def load(path: Path, remedy: str | None = None) -> "Manifest":
        """Raises UserError where it is missing, damaged, changed, or of another version of fastgen.

        remedy: for one that lies elsewhere than with its set.
        """
        return Manifest.read(path, remedy)[0]

    @staticmethod
    def read(path: Path, remedy: str | None = None) -> tuple["Manifest", str]:
        """The manifest and its file's SHA-256, as `load`."""
        missing = f"{path.parent} is no baked set (it has no {MANIFEST}); make one with `fastgen bake recipe=...`"
        remedy = remedy or f"delete {path.parent} and bake again"
        data, fields = contents(path, missing, remedy)
        schema = fields.get("schema")
        if schema not in (1, SCHEMA):
            raise UserError(f"{path} has schema {schema}, this version reads {SCHEMA}; {remedy}")
        manifest = unsealed(Manifest, path, fields, remedy, seal=schema != 1)
        return manifest, hashlib.sha256(data).hexdigest()


@dataclass
class BakedSet:
    """An open, checked baked set. sha256: of manifest.json as it lies on the disk. splits: the open file of each."""

    path: Path
    manifest: Manifest
    sha256: str
    splits: dict[str, Beton] = field(default_factory=dict)

    @staticmethod
    def of(path: Path, manifest: Manifest) -> "BakedSet":
        """The set in a folder whose `manifest` was written just now; its files are not opened."""
        return BakedSet(path, manifest, hashlib.sha256(manifest.to_json().encode()).hexdigest())

    @staticmethod
    def open(
        path: str | Path, full: bool = False, expect: str | None = None, plan: dict[str, Any] | None = None
    ) -> "BakedSet":
        """Open a folder and check it against its manifest: sizes, the hash of all tables, columns and labels, always.

        The payload is hashed with full=True, or when the files are not those of the last check (another size, time
        stamp or inode: copied, touched, replaced). expect: the `identity` that the caller relies on. plan: the
        specification that was asked for. A folder that is named as the cache names its own must be of that name.

        Raises UserError naming the first file that does not match, and the remedy.
        """
        path = Path(path)
        deadline = time.monotonic() + _COLUMN_SECONDS
        while True:
            manifest, sha256 = Manifest.read(path / MANIFEST)
            check_identity(path, manifest, expect)
            _check_named(path, manifest, plan)
            baked = BakedSet(path, manifest, sha256)
            try:
                baked._check(full)
            except UserError:
                # Another process that adds a column renames first the file and then its manifest.
                if not (next_manifest(path).exists() or Manifest.read(path / MANIFEST)[1] != sha256):
                    raise
                if time.monotonic() > deadline:
                    raise
                time.sleep(_COLUMN_SECONDS / 40)
            else:
                return baked

    def _check(self, full: bool) -> None:
        stamp = self._stamp()
        known = not full and _stamped(self.path / STAMP) == stamp
        for name, split in self.manifest.splits.items():
            self.splits[name] = _check_file(self.path, split, payload=not known)
            check_columns(self.path / split.file, self.manifest, name, self.splits[name])
        if known:
            with suppress(OSError):
                (self.path / STAMP).touch()  # `fastgen clean` goes by when a set was last used
        else:
            self.write_stamp(stamp)

    def write_stamp(self, stamp: dict[str, Any] | None = None) -> None:
        """Remember that these very files were hashed and found whole."""
        with suppress(OSError, UserError):  # a read-only cache is hashed at every start instead
            write_atomically(self.path / STAMP, json.dumps(stamp or self._stamp()))
            share(self.path / STAMP, self.path)

    def _stamp(self) -> dict[str, Any]:
        files: dict[str, Any] = {"manifest": self.sha256}
        for split in self.manifest.splits.values():
            with suppress(OSError):  # _check_file names it
                stat = (self.path / split.file).stat()
                files[split.file] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        return files


def last_used(path: Path) -> float:
    """When the set in the folder `path` was opened last, in seconds since 1970."""
    stamp = path / STAMP
    return (stamp if stamp.exists() else path).stat().st_mtime


def next_manifest(folder: Path) -> Path:
    """Where the manifest of a set with one more column waits until its file has been renamed."""
    return folder / f"{MANIFEST}.next"


def folder_name(specification: dict[str, Any]) -> str:
    """What the cache calls the folder of a set."""
    source, pixels, image = (specification[part] for part in ("source", "pixels", "image"))
    return f"{source['source']}-{pixels['kind']}-{image['encoding']}-{digest(specification)[:12]}"


def named_by_cache(name: str) -> bool:
    """Whether a folder's name ends as the cache ends its own."""
    return re.search("-[0-9a-f]{12}$", name) is not None


def check_identity(path: Path, manifest: Manifest, expect: str | None) -> None:
    """Raises UserError unless `manifest`, of the folder `path`, is of this version and of the `identity` `expect`."""
    if manifest.schema != SCHEMA:
        raise UserError(
            f"{path / MANIFEST} has schema {manifest.schema}, this version reads {SCHEMA}; delete {path} and bake again"
        )
    if expect is not None and manifest.identity != expect:
        raise UserError(f"{path}: the manifest changed (it is of {manifest.identity[:12]}, expected {expect[:12]})")


def _check_named(path: Path, manifest: Manifest, plan: dict[str, Any] | None) -> None:
    """Raises UserError unless the set is what the folder's name, where the cache gave it, and `plan` say."""
    name, right = path.absolute().name, folder_name(manifest.specification)
    if (named_by_cache(name) and name != right) or (
        plan is not None and digest(plan) != digest(manifest.specification)
    ):
        raise UserError(
            f"{path} holds another set, {right}: it was renamed or replaced; give it that name back, or delete it and "
            "bake again"
        )


def _stamped(path: Path) -> Any:
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return None


def _check_file(folder: Path, split: Split, payload: bool) -> Beton:
    path = folder / split.file
    remedy = f"it is damaged or was replaced; delete {folder} and bake again"
    if not any(folder.glob("*.beton")):
        raise UserError(
            f"{path} is missing: {folder} holds no set, but a manifest, as a run's folder does; name the set's own "
            "folder. One of the cache's is damaged: delete it and bake again"
        )
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
    if images_of(beton) != split.image:
        raise UserError(f"{path}: its images are not of the sizes and kinds that the manifest says: {remedy}")
    return beton


def check_columns(path: Path, manifest: Manifest, name: str, stored: Any) -> None:
    """Raises UserError unless the columns of `stored` (`Beton` or `Shards`, of the split `name`) are those of the
    manifest: names, samples, labels that are classes, and how many are changed. path: what to call it."""
    split, columns = manifest.splits[name], stored.columns

    def must(right: bool, what: str) -> None:
        if not right:
            raise UserError(f"{path} and its manifest differ in {what}: one of them was changed; bake the set again")

    must(manifest.splits.keys() == manifest.specification["fingerprints"].keys(), "the splits")
    must(stored.samples == split.samples, f"samples ({stored.samples:,} and {split.samples:,})")
    # The file has them in the order in which they came, the manifest by name.
    must(sorted(columns) == sorted(["clean_label", "index", *split.columns]), "the label columns")
    clean = columns["clean_label"]
    must(_within(clean, manifest.num_classes), "the number of classes")
    must(np.array_equal(np.sort(columns["index"]), np.arange(split.samples)), "the samples' indices")
    for column, described in split.columns.items():
        spec, given = LabelSpec(**described.spec), columns[column]
        if spec.kind not in LABELS:  # of the user's own, who may not have registered it here
            continue
        must(_is_of(spec, described.spec, column), f"what {column} is")
        changed = split.samples if spec.signs else int((given != clean).sum())
        must(described.changed == changed, f"how many labels {column} changed")
        must(_within(given, spec.classes(manifest.num_classes)), f"the labels of {column}")


def settings_of(spec: LabelSpec) -> dict[str, Any]:
    """What a manifest says of a resolved labelling."""
    return {name: value for name, value in asdict(spec).items() if value is not None}


def _is_of(spec: LabelSpec, settings: dict[str, Any], column: str) -> bool:
    try:
        right = digest(settings) == digest(settings_of(spec.resolved()))
        return right and (LABELS[spec.kind].from_file or spec.column_name == column)
    except UserError:  # its settings contradict each other
        return False


def _within(labels: np.ndarray, classes: int) -> bool:
    return bool(labels.min() >= 0 and labels.max() < classes)


def images_of(beton: Beton) -> Images:
    height, width = beton.fixed_size or (None, None)
    return Images(height, width, int((beton.mode == JPEG).sum()))


def describe(path: Path, beton: Beton, hashes: Hashes, columns: dict[str, Column]) -> Split:
    """The manifest's entry for a file just written."""
    return Split(path.name, path.stat().st_size, beton.samples, images_of(beton), columns, hashes.table, hashes.payload)
