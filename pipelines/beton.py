"""The .beton file (FFCV's format, version 2), read and written with numpy alone.

Layout, all little-endian: header; one descriptor per field; one metadata record per sample (aligned, in the
order of the fields); a gap up to a page boundary; the payload; the allocation table. The payload is
split into pages (a power of two, aligned in the file) and no sample crosses a page. An image field's record
holds mode, width, height and the file offset of its bytes; an integer field's record holds the value.
Source: ffcv/types.py, ffcv/fields/, ffcv/memory_allocator.py of FFCV 1.0.2.

Why not FFCV's writer: it hangs when a worker fails, writes the final path in place, and its order comes from
numpy's global generator.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.registry import UserError

VERSION = 2
PAGE_BYTES = 1 << 23
PART_PAGES = 8  # the payload is hashed in parts of this many pages (64 MiB)
JPEG, RAW = 0, 1  # ffcv.fields.rgb_image.IMAGE_MODES

_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", "S16"), ("arguments", "V1024")], align=True)
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
_ALLOCATION = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_INT_TYPE, _IMAGE_TYPE = 1, 2
NAME_BYTES = 16  # FFCV cuts longer field names without a word


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of every byte of a file: `table` covers all that lies before and behind the payload (header, fields,
    metadata, the gap, allocation table), `payload` has one hash per part of `PART_PAGES` pages. Adding a column
    changes `table` alone."""

    table: str
    payload: list[str]


def _metadata_dtype(columns: int) -> np.dtype:
    return np.dtype([("image", _IMAGE)] + [(f"c{i}", "<i8") for i in range(columns)], align=True)


def _check_names(names: list[str]) -> None:
    for name in names:
        if not 0 < len(name.encode()) <= NAME_BYTES:
            raise UserError(f"column name '{name}' must have 1 to {NAME_BYTES} bytes: FFCV would cut it")
    if len({*names, "image"}) != len(names) + 1:
        raise UserError(f"column names must differ from each other and from 'image': {names}")


def _head(samples: int, names: list[str], page_bytes: int, table_ptr: int) -> bytes:
    header = np.zeros((), _HEADER)
    header["version"], header["fields"], header["page"] = VERSION, 1 + len(names), page_bytes
    header["samples"], header["table"] = samples, table_ptr
    fields = np.zeros(1 + len(names), _FIELD)
    fields["name"] = [name.encode() for name in ("image", *names)]
    fields["type"] = [_IMAGE_TYPE] + [_INT_TYPE] * len(names)
    return header.tobytes() + fields.tobytes()


def _payload_start(samples: int, columns: int, page_bytes: int) -> int:
    head = _HEADER.itemsize + (1 + columns) * _FIELD.itemsize + samples * _metadata_dtype(columns).itemsize
    return -(-head // page_bytes) * page_bytes


def _bytes_of(data: bytes | np.ndarray) -> memoryview:
    return memoryview(data if isinstance(data, bytes) else data.data).cast("B")


class Writer:
    """Writes one file, sample after sample; the header comes last, so an unfinished file cannot be read.

    columns: int64 (samples,) each, in the order in which images will be appended; names of 1 to 16 bytes.
    page_bytes: a power of two that holds the largest image.
    """

    def __init__(
        self, path: Path, samples: int, columns: Mapping[str, np.ndarray], page_bytes: int = PAGE_BYTES
    ) -> None:
        _check_names(list(columns))
        assert page_bytes & (page_bytes - 1) == 0, "FFCV finds a page by shifting"
        assert all(values.shape == (samples,) for values in columns.values())
        self.page_bytes = page_bytes
        self.names = list(columns)
        self._metadata = np.zeros(samples, _metadata_dtype(len(columns)))
        for i, values in enumerate(columns.values()):
            self._metadata[f"c{i}"] = values
        self._sizes = np.zeros(samples, np.uint64)
        self._start = self._end = _payload_start(samples, len(columns), page_bytes)
        self._count = 0
        self._parts: list[str] = []
        self._hash, self._hashed = hashlib.sha256(), 0
        self._file = open(path, "wb")  # noqa: SIM115 (closed by finish or __exit__)
        self._file.seek(self._start)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _put(self, data: bytes | np.ndarray) -> None:
        """Append bytes to the payload and to the hash of the part that they fall in."""
        view = _bytes_of(data)
        self._file.write(view)
        self._end += len(view)
        part_bytes = PART_PAGES * self.page_bytes
        while len(view):
            piece = view[: part_bytes - self._hashed]
            self._hash.update(piece)
            self._hashed += len(piece)
            view = view[len(piece) :]
            if self._hashed == part_bytes:
                self._parts.append(self._hash.hexdigest())
                self._hash, self._hashed = hashlib.sha256(), 0

    def append(self, data: bytes | np.ndarray, mode: int, width: int, height: int) -> None:
        """One image: JPEG bytes (mode JPEG) or uint8 HWC pixels (mode RAW)."""
        size = len(_bytes_of(data))
        if size > self.page_bytes:
            raise UserError(
                f"an image of {width}x{height} takes {size:,} bytes, more than a page ({self.page_bytes:,}): "
                "set bake.resolution lower or bake.encoding=jpeg"
            )
        room = self.page_bytes - (self._end & (self.page_bytes - 1))
        if size > room:
            self._put(bytes(room))
        self._metadata["image"][self._count] = (mode, width, height, self._end)
        self._sizes[self._count] = size
        self._count += 1
        self._put(data)

    def append_raw(self, images: np.ndarray) -> None:
        """Many images of one size at once: uint8 (n, H, W, 3). The same bytes as n calls of `append`."""
        n, height, width, _ = images.shape
        images = np.ascontiguousarray(images)
        size = images[0].nbytes if n else 0
        if size > self.page_bytes:
            self.append(images[0], RAW, width, height)  # raises
        done = 0
        while done < n:
            room = self.page_bytes - (self._end & (self.page_bytes - 1))
            if room < size:
                self._put(bytes(room))
                room = self.page_bytes
            take = min(n - done, room // size)
            rows = slice(self._count, self._count + take)
            records = self._metadata["image"]
            records["mode"][rows], records["width"][rows], records["height"][rows] = RAW, width, height
            records["ptr"][rows] = self._end + np.arange(take, dtype=np.uint64) * np.uint64(size)
            self._sizes[rows] = size
            self._count += take
            self._put(images[done : done + take])
            done += take

    def finish(self) -> Hashes:
        """Write the tables and the header, flush to the disk, close, and return the hashes."""
        assert self._count == len(self._metadata), f"{self._count} of {len(self._metadata)} images written"
        if self._hashed:
            self._parts.append(self._hash.hexdigest())
        table = _write_tables(self._file, self.names, self._metadata, self._sizes, self.page_bytes, table_ptr=self._end)
        self._file.close()
        return Hashes(table, self._parts)


def _write_tables(file, names, metadata, sizes, page_bytes: int, table_ptr: int) -> str:  # type: ignore[no-untyped-def]
    """Everything but the payload, header last; returns the hash of it."""
    allocations = np.zeros(len(metadata), _ALLOCATION)
    allocations["sample"] = np.arange(len(metadata))
    allocations["ptr"], allocations["size"] = metadata["image"]["ptr"], sizes
    head = _head(len(metadata), names, page_bytes, table_ptr)
    start = _payload_start(len(metadata), len(names), page_bytes)
    file.seek(table_ptr)
    file.write(allocations.tobytes())
    file.seek(len(head))
    file.write(metadata.tobytes())
    file.flush()
    file.seek(0)
    file.write(head)
    file.flush()
    os.fsync(file.fileno())
    digest = hashlib.sha256(head)
    digest.update(metadata.tobytes())
    digest.update(bytes(start - len(head) - metadata.nbytes))
    digest.update(allocations.tobytes())
    return digest.hexdigest()


class Beton:
    """An open .beton file with one image field and integer columns.

    columns: name -> int64 (samples,). mode uint8, width, height uint16, ptr uint64 (file offsets) and
    sizes uint64 (bytes), all (samples,). Rows are file positions, not sample indices.

    Raises UserError when the file is no such .beton, is unfinished, or is cut short.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self._read(file)
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file; bake it first (fastgen bake recipe=...)") from None
        except UserError:
            raise
        except (ArithmeticError, MemoryError, OSError, ValueError) as error:  # numbers that no file can mean
            raise UserError(f"{self.path}: damaged header ({error}); delete it and bake again") from error

    def _read(self, file) -> None:  # type: ignore[no-untyped-def]
        def table(dtype: np.dtype, count: int) -> np.ndarray:
            data = file.read(count * dtype.itemsize)
            if len(data) != count * dtype.itemsize:
                raise UserError(f"{self.path}: cut short or never finished; delete it and bake again")
            return np.frombuffer(data, dtype)

        header = table(_HEADER, 1)[0]
        if header["version"] != VERSION:
            raise UserError(
                f"{self.path}: not a finished .beton of version {VERSION} (version field {header['version']}); "
                "bake it again"
            )
        self.samples, self.page_bytes = int(header["samples"]), int(header["page"])
        fields = table(_FIELD, int(header["fields"]))
        types = fields["type"].tolist()
        names = [name.decode() for name in fields["name"]]
        if not types or types[0] != _IMAGE_TYPE or any(t != _INT_TYPE for t in types[1:]):
            raise UserError(
                f"{self.path}: fields {names} of types {types}; fastgen reads files whose first field is an RGB "
                "image and whose others are integers, as `fastgen bake` writes them"
            )
        self.names = names[1:]
        self.metadata = table(_metadata_dtype(len(self.names)), self.samples)
        self.table_ptr = int(header["table"])
        file.seek(self.table_ptr)
        allocations = table(_ALLOCATION, self.samples)
        if file.read(1):
            raise UserError(f"{self.path}: does not end with its last table: it is damaged; delete it and bake again")
        # FFCV's writer orders this table by worker; sorted by address it can be looked up.
        order = np.argsort(allocations["ptr"], kind="stable")
        found = np.searchsorted(allocations["ptr"], self.ptr, sorter=order)
        self.sizes = allocations["size"][order][np.minimum(found, self.samples - 1)]
        self.payload_start = _payload_start(self.samples, len(self.names), self.page_bytes)
        # Decoders are given these addresses and sizes unchecked.
        pixels = self.height.astype(np.uint64) * self.width * 3
        end = self.ptr + self.sizes
        wrong = (self.ptr < self.payload_start) | (end > self.table_ptr) | (end < self.ptr)
        wrong |= allocations["ptr"][order][np.minimum(found, self.samples - 1)] != self.ptr
        wrong |= (self.mode == RAW) & (self.sizes != pixels)
        if wrong.any():
            raise UserError(f"{self.path}: row {int(np.flatnonzero(wrong)[0])} lies nowhere in the file: it is damaged")

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return {name: self.metadata[f"c{i}"].copy() for i, name in enumerate(self.names)}

    @property
    def mode(self) -> np.ndarray:
        return self.metadata["image"]["mode"]

    @property
    def width(self) -> np.ndarray:
        return self.metadata["image"]["width"]

    @property
    def height(self) -> np.ndarray:
        return self.metadata["image"]["height"]

    @property
    def ptr(self) -> np.ndarray:
        return self.metadata["image"]["ptr"]

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) when all images share it, else None."""
        if not self.samples or np.ptp(self.height) or np.ptp(self.width):
            return None
        return int(self.height[0]), int(self.width[0])

    def map(self) -> np.memmap:
        """The file's bytes, mapped read-only: uint8 (file size,)."""
        return np.memmap(self.path, np.uint8, "r")

    def image(self, row: int, data: np.ndarray | None = None) -> np.ndarray:
        """The decoded image of a row: uint8 (H, W, 3). data: the mapped file, when many rows are read."""
        begin = int(self.ptr[row])
        encoded = (self.map() if data is None else data)[begin : begin + int(self.sizes[row])]
        if self.mode[row] == RAW:
            return encoded.reshape(int(self.height[row]), int(self.width[row]), 3)
        try:
            return np.asarray(Image.open(io.BytesIO(_bytes_of(encoded))).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            index = f", sample {self.columns['index'][row]}" if "index" in self.names else ""
            raise UserError(
                f"{self.path} row {row}{index}: cannot be decoded ({error}); the file is damaged, "
                "delete its folder and bake again"
            ) from error

    def raw_images(self) -> np.ndarray:
        """A copy of all images in file order: uint8 (samples, H, W, 3). All raw and of one size."""
        assert self.fixed_size is not None and (self.mode == RAW).all()
        height, width = self.fixed_size
        size = height * width * 3
        out = np.empty((self.samples, size), np.uint8)
        data = self.map()
        # One copy per contiguous run (a page each); gathering with an index array takes 90 times as long.
        ends = np.flatnonzero(np.diff(self.ptr.astype(np.int64)) != size) + 1
        for first, last in zip(np.r_[0, ends], np.r_[ends, self.samples], strict=True):
            begin = int(self.ptr[first])
            out[first:last] = data[begin : begin + (last - first) * size].reshape(-1, size)
        return out.reshape(self.samples, height, width, 3)

    def hashes(self, payload: bool = True) -> Hashes:
        """Hash the file again (see `Hashes`); without the payload only the tables are read."""
        with open(self.path, "rb") as file:
            digest = hashlib.sha256(file.read(self.payload_start))
            file.seek(self.table_ptr)
            digest.update(file.read())
            parts = []
            if payload:
                parts = [hashlib.sha256(part).hexdigest() for part in self._parts(file)]
        return Hashes(digest.hexdigest(), parts)

    def _parts(self, file) -> Iterator[bytes]:  # type: ignore[no-untyped-def]
        file.seek(self.payload_start)
        left = self.table_ptr - self.payload_start
        while left > 0:
            data = file.read(min(left, PART_PAGES * self.page_bytes))
            if not data:
                return
            left -= len(data)
            yield data


def add_columns(source: Beton, target: Path, columns: Mapping[str, np.ndarray]) -> str:
    """Write `source` with more columns to `target`; the payload is copied inside the kernel, never decoded.

    columns: int64 (samples,) in file order. Returns the new hash of the tables.
    """
    names = [*source.names, *columns]
    _check_names(names)
    metadata = np.zeros(source.samples, _metadata_dtype(len(names)))
    for i, values in enumerate([*source.columns.values(), *columns.values()]):
        metadata[f"c{i}"] = values
    start = _payload_start(source.samples, len(names), source.page_bytes)
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
