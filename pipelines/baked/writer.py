"""Writing .beton files: sample after sample, hashed on the way, and continued where a killed process stopped.

Why not FFCV's writer: it hangs when a worker fails, writes the final path in place, and its order comes from
numpy's global generator.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipelines.baked.beton import PAGE_BYTES, PART_PAGES, Beton, Hashes, bytes_of, metadata_dtype, payload_start, tables
from pipelines.durable import sync
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
    right, and `count` is the image to go on with.
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
        self._hash, self._hashed = hashlib.sha256(), 0
        self._part_bytes = PART_PAGES * page_bytes
        self._log = _PartLog(path, samples, self._start)
        rows, self._parts = self._log.read(self._part_bytes)
        self.count = len(rows)  # images in the file
        for name in _IMAGE_FIELDS:
            self._metadata["image"][name][: self.count] = rows[name]
        self._sizes[: self.count] = rows["size"]
        self._end += len(self._parts) * self._part_bytes
        self._file = open(path, "r+b")  # noqa: SIM115 (closed by finish or __exit__)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

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
        """Write the tables and the header, flush to the disk, close, and return the hashes."""
        assert self.count == len(self._metadata), f"{self.count} of {len(self._metadata)} images written"
        if self._hashed:
            self._parts.append(self._hash.hexdigest())
        table = _write_tables(self._file, self.names, self._metadata, self._sizes, self.page_bytes, table_ptr=self._end)
        self._file.close()
        self._log.delete()
        return Hashes(table, self._parts)


class _PartLog:
    """PATH.parts: a line for each finished part with its hash, and PATH.rows: the records of the images in them."""

    def __init__(self, path: Path, samples: int, start: int) -> None:
        self._path = path
        self._parts_path, self._rows_path = path.with_suffix(".parts"), path.with_suffix(".rows")
        self._shape = {"samples": samples, "start": start}
        self.rows = 0

    def read(self, part_bytes: int) -> tuple[np.ndarray, list[str]]:
        """Records and hashes of the parts that are whole; what lies behind them is forgotten."""
        parts = self._whole_parts(part_bytes)
        self.rows = parts[-1]["rows"] if parts else 0
        rows = np.fromfile(self._rows_path, _RECORD, self.rows) if parts else np.zeros(0, _RECORD)
        self._path.touch()
        self._parts_path.write_text("".join(json.dumps(line) + "\n" for line in [self._shape, *parts]))
        rows.tofile(self._rows_path)
        return rows, [part["sha256"] for part in parts]

    def _whole_parts(self, part_bytes: int) -> list[dict[str, Any]]:
        if not (self._path.exists() and self._parts_path.exists() and self._rows_path.exists()):
            return []
        shape, *lines = [
            json.loads(line) for line in self._parts_path.read_text().split("\n") if line.endswith("}")
        ] or [None]
        noted = self._rows_path.stat().st_size // _RECORD.itemsize
        whole: list[dict[str, Any]] = []
        if shape != self._shape:
            return whole
        with open(self._path, "rb") as file:
            file.seek(self._shape["start"])
            for line in lines:
                data = file.read(part_bytes)
                if line["rows"] > noted or hashlib.sha256(data).hexdigest() != line["sha256"]:
                    break
                whole.append(line)
        return whole

    def add(self, rows: np.ndarray, sha256: str) -> None:
        self.rows += len(rows)
        with open(self._rows_path, "ab") as file:
            file.write(rows.tobytes())
            sync(file)
        with open(self._parts_path, "a") as file:
            file.write(json.dumps({"rows": self.rows, "sha256": sha256}) + "\n")
            sync(file)

    def delete(self) -> None:
        self._parts_path.unlink()
        self._rows_path.unlink()


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
