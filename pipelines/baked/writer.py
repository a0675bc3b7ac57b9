"""Writing .beton files: sample after sample, hashed on the way, and continued where a killed process stopped.

Why not FFCV's writer: it hangs when a worker fails, writes the final path in place, and its order comes from
numpy's global generator.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipelines.baked.beton import PAGE_BYTES, PART_PAGES, Beton, Hashes, bytes_of, metadata_dtype, payload_start, tables
from pipelines.baked.notes import Count, Sha256, parsed
from pipelines.durable import sync, write_durably
from pipelines.errors import UserError

NAME_BYTES = 16  # of a column's name at most: FFCV cuts longer ones without a word
_IMAGE_FIELDS = ("mode", "width", "height", "ptr")
_RECORD = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8"), ("size", "<u8")])


def _check_names(names: list[str]) -> None:
    for name in names:
        if not 0 < len(name.encode()) <= NAME_BYTES:
            raise UserError(f"column name '{name}' must have 1 to {NAME_BYTES} bytes: FFCV would cut it")
    if len({*names, "image"}) != len(names) + 1:
        raise UserError(f"column names must differ from each other and from 'image': {names}")


class Writer:
    """Writes one file, sample after sample. The header comes last, so an unfinished file cannot be read.

    columns: int64 (samples,) each, in the order in which images will be appended; names of 1 to 16 bytes.
    page_bytes: a power of two that holds the largest image. Every finished part of the payload is flushed to the disk
    and noted beside the file (PATH.parts). A later Writer of the same file and shape keeps the parts whose hashes are
    right, and `count` is the image to go on with. At the end of its context, the notes of a finished file are removed.
    """

    def __init__(
        self, path: Path, samples: int, columns: Mapping[str, np.ndarray], page_bytes: int = PAGE_BYTES
    ) -> None:
        _check_names(list(columns))
        assert page_bytes & (page_bytes - 1) == 0, "FFCV finds a page by shifting"
        assert all(values.shape == (samples,) for values in columns.values())
        self.page_bytes = page_bytes
        self.names = list(columns)
        self._metadata = np.zeros(samples, metadata_dtype(len(columns)))
        for i, values in enumerate(columns.values()):
            self._metadata[f"c{i}"] = values
        self._sizes = np.zeros(samples, np.uint64)
        self._start = self._end = payload_start(samples, len(columns), page_bytes)
        self._hash, self._hashed, self._finished = hashlib.sha256(), 0, False
        self._part_bytes = PART_PAGES * page_bytes
        self._log = _PartLog(path, samples, self._start)
        rows, self._parts = self._log.read(self._part_bytes)
        self.count = len(rows)  # images in the file
        for name in _IMAGE_FIELDS:
            self._metadata["image"][name][: self.count] = rows[name]
        self._sizes[: self.count] = rows["size"]
        self._end += len(self._parts) * self._part_bytes
        self._file = open(path, "r+b")  # noqa: SIM115 (closed by __exit__)
        if self._parts:
            self._file.write(bytes(self._start))  # what lies before the parts has no hash yet, and must be zeros
        else:
            self._file.truncate(0)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._finished:
            self._log.delete()

    def _put(self, data: bytes | np.ndarray) -> None:
        """Append bytes to the payload and to the hash of the part that they fall in."""
        view = bytes_of(data)
        self._file.write(view)
        self._end += len(view)
        while len(view):
            piece = view[: self._part_bytes - self._hashed]
            self._hash.update(piece)
            self._hashed += len(piece)
            view = view[len(piece) :]
            if self._hashed == self._part_bytes:
                self._parts.append(self._hash.hexdigest())
                self._hash, self._hashed = hashlib.sha256(), 0
                self._note_part()

    def _note_part(self) -> None:
        sync(self._file)
        # No image crosses a page, so a part ends with an image (or with filling).
        new = slice(self._log.rows, self.count)
        rows = np.zeros(self.count - self._log.rows, _RECORD)
        for name in _IMAGE_FIELDS:
            rows[name] = self._metadata["image"][name][new]
        rows["size"] = self._sizes[new]
        self._log.add(rows, self._parts[-1])

    def append(self, data: bytes | np.ndarray, mode: int, width: int, height: int) -> None:
        """One image: JPEG bytes (mode JPEG) or uint8 HWC pixels (mode RAW)."""
        size = len(bytes_of(data))
        if size > self.page_bytes:
            raise UserError(
                f"an image of {width}x{height} takes {size:,} bytes, more than a page ({self.page_bytes:,}): "
                "set bake.resolution lower or bake.encoding=jpeg"
            )
        room = self.page_bytes - (self._end & (self.page_bytes - 1))
        if size > room:
            self._put(bytes(room))
        self._metadata["image"][self.count] = (mode, width, height, self._end)
        self._sizes[self.count] = size
        self.count += 1
        self._put(data)

    def finish(self) -> Hashes:
        """Write the tables and the header, flush to the disk, and return the hashes."""
        assert self.count == len(self._metadata), f"{self.count} of {len(self._metadata)} images written"
        if self._hashed:
            self._parts.append(self._hash.hexdigest())
        table = _write_tables(self._file, self.names, self._metadata, self._sizes, self.page_bytes, table_ptr=self._end)
        self._finished = True
        return Hashes(table, self._parts)


@dataclass
class _Shape:
    """The first line of PATH.parts: which file the parts are of. start: where its payload begins."""

    samples: Count
    start: Count


@dataclass
class _Part:
    """A line of PATH.parts. rows: how many images are whole with this part. Hashes: of its payload, and of the records
    that it adds to PATH.rows."""

    rows: Count
    sha256: Sha256
    rows_sha256: Sha256


class _PartLog:
    """PATH.parts: a line for each finished part, and PATH.rows: the records of the images in them.

    A line that cannot be read, or is not right, ends what is done: the rest is written again.
    """

    def __init__(self, path: Path, samples: int, start: int) -> None:
        self._path = path
        self._parts_path, self._rows_path = path.with_suffix(".parts"), path.with_suffix(".rows")
        self._shape = _Shape(samples, start)
        self.rows = 0

    def read(self, part_bytes: int) -> tuple[np.ndarray, list[str]]:
        """Records and hashes of the parts that are whole; what lies behind them is forgotten."""
        for path in (self._path, self._parts_path, self._rows_path):
            if path.is_symlink() or (path.exists() and not path.is_file()):  # a pipe would be waited for
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        parts, records = self._whole_parts(part_bytes)
        rows = np.frombuffer(records, _RECORD)
        self.rows = len(rows)
        self._path.touch()
        write_durably(self._parts_path, _line(self._shape) + "".join(map(_line, parts)))
        write_durably(self._rows_path, records)
        return rows, [part.sha256 for part in parts]

    def _whole_parts(self, part_bytes: int) -> tuple[list[_Part], bytes]:
        whole: list[_Part] = []
        records = b""
        with contextlib.suppress(OSError, ValueError, RecursionError):  # no such file, or a line that is none
            shape, *lines = self._parts_path.read_bytes().split(b"\n")
            if parsed(_Shape, json.loads(shape)) == self._shape:
                with open(self._path, "rb") as file, open(self._rows_path, "rb") as noted:
                    file.seek(self._shape.start)
                    for line in lines:
                        part = parsed(_Part, json.loads(line))
                        new = part.rows - len(records) // _RECORD.itemsize
                        if new < 0 or part.rows > self._shape.samples:
                            break
                        added = noted.read(new * _RECORD.itemsize)
                        right = part.sha256 == _sha256(file.read(part_bytes)) and part.rows_sha256 == _sha256(added)
                        if not right:
                            break
                        whole.append(part)
                        records += added
        return whole, records

    def add(self, rows: np.ndarray, sha256: str) -> None:
        self.rows += len(rows)
        for path, content in (
            (self._rows_path, rows.tobytes()),
            (self._parts_path, _line(_Part(self.rows, sha256, _sha256(rows.tobytes()))).encode()),
        ):
            with open(path, "ab") as file:
                file.write(content)
                sync(file)

    def delete(self) -> None:
        self._parts_path.unlink()
        self._rows_path.unlink()


def _line(note: _Shape | _Part) -> str:
    return json.dumps(asdict(note)) + "\n"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_tables(
    file: BinaryIO, names: list[str], metadata: np.ndarray, sizes: np.ndarray, page_bytes: int, table_ptr: int
) -> str:
    """Write everything but the payload, header last; returns its hash."""
    head, allocations = tables(names, metadata, sizes, page_bytes, table_ptr)
    start = payload_start(len(metadata), len(names), page_bytes)
    file.seek(table_ptr)
    file.write(allocations)
    file.seek(len(head))
    file.write(metadata.tobytes())
    file.flush()
    file.seek(0)
    file.write(head)
    sync(file)
    digest = hashlib.sha256(head)
    digest.update(metadata.tobytes())
    digest.update(bytes(start - len(head) - metadata.nbytes))
    digest.update(allocations)
    return digest.hexdigest()


def add_columns(source: Beton, target: Path, columns: Mapping[str, np.ndarray]) -> str:
    """Write `source` with more columns to `target`; the payload is copied inside the kernel, never decoded.

    columns: int64 (samples,) in file order. Returns the new hash of the tables.
    """
    names = [*source.names, *columns]
    _check_names(names)
    metadata = np.zeros(source.samples, metadata_dtype(len(names)))
    for i, values in enumerate([*source.columns.values(), *columns.values()]):
        metadata[f"c{i}"] = values
    start = payload_start(source.samples, len(names), source.page_bytes)
    shift = start - source.payload_start
    metadata["image"] = source.metadata["image"]
    metadata["image"]["ptr"] += np.uint64(shift)
    with open(source.path, "rb") as old, open(target, "wb") as new:
        left, read_at, write_at = source.table_ptr - source.payload_start, source.payload_start, start
        while left:
            # Shares the blocks instead of copying them where the file system can (XFS, Btrfs).
            copied = os.copy_file_range(old.fileno(), new.fileno(), left, read_at, write_at)
            assert copied > 0, "the source was checked to be whole"
            left, read_at, write_at = left - copied, read_at + copied, write_at + copied
        return _write_tables(new, names, metadata, source.sizes, source.page_bytes, table_ptr=source.table_ptr + shift)
