"""The samples of an export, read from its tar shards: the same rows, labels and bytes as in the set it was made from.

Where a .beton cannot be mapped (object stores mounted as folders, file systems without mmap), images are read by
threads, each with one positioned read, ahead of the decoder and in the order that the sampler gives. So a run over
shards has the batches of one over the .beton, bit for bit, on any number of processes, and resumes like it.
"""

import hashlib
import io
import os
import resource
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.baked.beton import fixed_size
from pipelines.baked.export import EXPORT, SCHEMA, About, Shard, table_path
from pipelines.baked.manifest import MANIFEST, Manifest, check_columns, check_identity
from pipelines.baked.notes import contents, unsealed
from pipelines.durable import refusals
from pipelines.errors import UserError
from pipelines.prefetch import Prefetcher

_READERS = 16  # threads: more than cores, as they wait for the disk or the network
_PLACE = {
    "shard": pa.dictionary(pa.int32(), pa.string()),
    "offset": pa.int64(),
    "bytes": pa.int64(),
    "crc32": pa.uint32(),
    "height": pa.uint16(),
    "width": pa.uint16(),
}


class Shards:
    """One split of an export, with what `Beton` has: samples, names, columns, height, width, raw, fixed_size.

    shards, table_sha256: what export.json says of it. Raises UserError where the table or a file is not as it says.
    """

    def __init__(self, folder: Path, split: str, shards: list[Shard], table_sha256: str) -> None:
        self.path = table_path(folder, split)
        for shard in shards:
            path = folder / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size:,} bytes where {EXPORT} says {shard.bytes:,}"
                raise UserError(f"{path} {found}; export the set again, or copy the whole folder again")
        if not self.path.is_file() or hashlib.sha256(self.path.read_bytes()).hexdigest() != table_sha256:
            raise UserError(f"{self.path} is missing, or not what {EXPORT} says; export the set again")
        try:
            right = self._read_table(folder, shards)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise UserError(f"{self.path} cannot be read ({error}); export the set again") from error
        if not right:
            raise UserError(f"{self.path} is not the table of these shards; export the set again")
        self._open: dict[int, io.FileIO] = {}
        self._most_open = len(shards)

    def _read_table(self, folder: Path, shards: list[Shard]) -> bool:
        """Whether it has an export's columns, and every image lies in a shard."""
        table = pq.read_table(self.path)
        types = dict.fromkeys(table.column_names, pa.int64()) | _PLACE
        whole = table.num_rows and all(column.null_count == 0 for column in table.columns)
        if not whole or dict(zip(table.schema.names, table.schema.types, strict=True)) != types:
            return False
        self.names = [name for name in table.column_names if name not in _PLACE]
        self.columns = {name: table[name].to_numpy().copy() for name in self.names}
        self.samples = len(table)
        self.height, self.width = table["height"].to_numpy(), table["width"].to_numpy()
        self.raw = np.zeros(self.samples, bool)
        self.fixed_size = fixed_size(self.height, self.width)
        files = table["shard"].combine_chunks()
        self._shard = files.indices.to_numpy()
        self._offset, self._bytes, self._crc = (table[name].to_numpy() for name in ("offset", "bytes", "crc32"))
        self._paths = [folder / name for name in files.dictionary.to_pylist()]
        if [path.name for path in self._paths] != [shard.file for shard in shards]:
            return False
        if self._shard.min() < 0 or self._shard.max() >= len(shards):
            return False
        ends = np.array([shard.bytes for shard in shards])[self._shard] - self._bytes
        return bool(((self._bytes > 0) & (self._offset >= 0) & (self._offset <= ends)).all())

    def encoded(self, rows_of_batches: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """The image files of each batch: uint8 (bytes,) each, read ahead."""
        self._allow_open_files()

        def read(part: np.ndarray) -> list[np.ndarray]:
            return [self._read(row) for row in part.tolist()]

        parts_of_batches = [np.array_split(rows, min(_READERS, len(rows))) for rows in rows_of_batches]
        done = Prefetcher(_READERS).map(read, chain(*parts_of_batches))
        for parts in parts_of_batches:
            yield list(chain(*islice(done, len(parts))))

    def image(self, row: int) -> np.ndarray:
        """The decoded image of a row: uint8 (H, W, 3)."""
        try:
            return np.asarray(Image.open(io.BytesIO(self._read(row).data)).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{self._name(row)} cannot be decoded ({error}); export the set again") from error

    def _read(self, row: int) -> np.ndarray:
        size, number = int(self._bytes[row]), int(self._shard[row])
        try:
            file = self._open.get(number)
            if file is None:  # two threads may both open it; the one not kept is closed with its last reader
                file = io.FileIO(self._paths[number])
                if len(self._open) < self._most_open:
                    self._open[number] = file
            data = os.pread(file.fileno(), size, int(self._offset[row]))
        except OSError as error:
            raise UserError(f"{self._name(row)} cannot be read ({error}); is the folder still there?") from error
        if len(data) != size or zlib.crc32(data) != self._crc[row]:
            raise UserError(
                f"{self._name(row)} has other bytes than when it was exported: the file is damaged or was replaced; "
                "export the set again, or copy the folder again (`fastgen verify` checks all of it)"
            )
        return np.frombuffer(data, np.uint8)

    def _name(self, row: int) -> str:
        return f"{self._paths[int(self._shard[row])]} row {row}, sample {self.columns['index'][row]}"

    def _allow_open_files(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        need = len(self._paths) + 512  # every shard stays open: on a network, opening costs more than reading
        if soft != resource.RLIM_INFINITY and soft < need:
            most = need if hard == resource.RLIM_INFINITY else min(need, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            self._most_open = max(0, most - 512)


@dataclass
class Export:
    """An open export, with what `BakedSet` has for a run. sha256: of the manifest of the set it was made from."""

    path: Path
    manifest: Manifest
    sha256: str
    splits: dict[str, Shards]

    @staticmethod
    def open(path: str | Path, full: bool = False, expect: str | None = None) -> "Export":
        """Open a folder that `fastgen export` wrote, and check sizes and tables; with full=True every byte.

        An image's bytes are checked whenever it is read. expect: the manifest's `identity` that the caller relies on.
        Raises UserError naming the first file that does not match, and the remedy.
        """
        path = Path(path)
        remedy = "export the set again"
        missing = f"{path} is no export (it has no {EXPORT}); make one with `fastgen export`"
        _, fields = contents(path / EXPORT, missing, remedy)
        if fields.get("schema") != SCHEMA:
            raise UserError(f"{path} was exported by another version of fastgen; {remedy}")
        about = unsealed(About, path / EXPORT, fields, remedy)
        with refusals(path, "export the set again, or let this user read it"):
            manifest, sha256 = Manifest.read(path / MANIFEST)
            if sha256 != about.manifest_sha256:
                raise UserError(
                    f"{path}: the manifest changed (its hash is {sha256[:12]}, expected {about.manifest_sha256[:12]})"
                )
            check_identity(path, manifest, expect)
            _check_about(path / EXPORT, about, manifest)
            splits = {
                split: Shards(path, split, shards, about.tables_sha256[split]) for split, shards in about.splits.items()
            }
            for split, stored in splits.items():
                check_columns(table_path(path, split), manifest, split, stored)
            for shard in chain(*about.splits.values()) if full else ():
                with open(path / shard.file, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                        raise UserError(f"{path / shard.file} is damaged or was replaced; {remedy}")
        return Export(path, manifest, sha256, splits)


def _check_about(path: Path, about: About, manifest: Manifest) -> None:
    """Raises UserError unless export.json says of the set what its manifest says."""
    right = (
        (about.class_names, about.channels) == (manifest.class_names, manifest.channels)
        and manifest.splits.keys()
        == about.splits.keys()
        == about.tables_sha256.keys()
        == about.columns.keys()
        == about.labels.keys()
    )
    for split in manifest.splits if right else ():
        right &= sorted(about.columns[split]) == sorted(["clean_label", "index", *manifest.splits[split].columns])
        right &= about.labels[split] in about.columns[split]
        right &= sum(shard.samples for shard in about.splits[split]) == manifest.splits[split].samples
    if not right:
        raise UserError(f"{path} and {MANIFEST} beside it are of different sets; export the set again")
