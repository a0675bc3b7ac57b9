"""The .beton file (FFCV's format, version 2), read with numpy alone; `pipelines.baked.writer` writes it.

Layout, all little-endian: header; one descriptor per field; one metadata record per sample (aligned, in the
order of the fields); a gap up to a page boundary; the payload; the allocation table. The payload is
split into pages (a power of two, aligned in the file) and no sample crosses a page. An image field's record
holds mode, width, height and the file offset of its bytes; an integer field's record holds the value.
Source: ffcv/types.py, ffcv/fields/, ffcv/memory_allocator.py of FFCV 1.0.2.
"""

import contextlib
import fcntl
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from pipelines.errors import UserError

_VERSION = 2
PAGE_BYTES = 1 << 23  # of a page: the largest image that can be stored
PART_PAGES = 8  # the payload is hashed in parts of this many pages (64 MiB)
JPEG, RAW = 0, 1  # ffcv.fields.rgb_image.IMAGE_MODES

_HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page", "<u4"), ("samples", "<u8"), ("table", "<u8")], align=True
)
_FIELD = np.dtype([("type", "<u1"), ("name", "S16"), ("arguments", "V1024")], align=True)
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
_ALLOCATION = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_INT_TYPE, _IMAGE_TYPE = 1, 2


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of every byte of a file: `table` of all before and behind the payload (header, fields, metadata, the gap,
    allocation table), `payload` of each part of `PART_PAGES` pages. Adding a column changes `table` alone."""

    table: str
    payload: list[str]


def metadata_dtype(columns: int) -> np.dtype:
    return np.dtype([("image", _IMAGE)] + [(f"c{i}", "<i8") for i in range(columns)], align=True)


def payload_start(samples: int, columns: int, page_bytes: int) -> int:
    head = _HEADER.itemsize + (1 + columns) * _FIELD.itemsize + samples * metadata_dtype(columns).itemsize
    return -(-head // page_bytes) * page_bytes


def tables(
    names: list[str], metadata: np.ndarray, sizes: np.ndarray, page_bytes: int, table_ptr: int
) -> tuple[bytes, bytes]:
    """The header with the fields' descriptors, which lie before `metadata`, and the allocation table."""
    header = np.zeros((), _HEADER)
    header["version"], header["fields"], header["page"] = _VERSION, 1 + len(names), page_bytes
    header["samples"], header["table"] = len(metadata), table_ptr
    fields = np.zeros(1 + len(names), _FIELD)
    fields["name"] = [name.encode() for name in ("image", *names)]
    fields["type"] = [_IMAGE_TYPE] + [_INT_TYPE] * len(names)
    allocations = np.zeros(len(metadata), _ALLOCATION)
    allocations["sample"] = np.arange(len(metadata))
    allocations["ptr"], allocations["size"] = metadata["image"]["ptr"], sizes
    return header.tobytes() + fields.tobytes(), allocations.tobytes()


def bytes_of(data: bytes | np.ndarray) -> memoryview:
    return memoryview(data if isinstance(data, bytes) else data.data).cast("B")


def fixed_size(height: np.ndarray, width: np.ndarray) -> tuple[int, int] | None:
    """(height, width) when all images share it, else None."""
    if not len(height) or np.ptp(height) or np.ptp(width):
        return None
    return int(height[0]), int(width[0])


class Beton:
    """An open .beton file with one image field and integer columns.

    columns: name -> int64 (samples,). mode uint8, width, height uint16, ptr uint64 (file offsets), sizes uint64 (bytes)
    and raw bool (the row holds pixels, and not a JPEG file), all (samples,). Rows are file positions, not sample
    indices. fixed_size: (height, width) when all images share it, else None.

    Raises UserError when the file is no such .beton, is unfinished, or is cut short.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if self.path.exists() and not self.path.is_file():  # a pipe would be waited for
                raise UserError(f"{self.path} is no regular file; delete it and bake again")
            with open(self.path, "rb") as file:
                self._read(file)
                self._mapped: np.ndarray | None = None
                # Now, as another bake may put a file with more columns in this one's place. Where mapping fails, `data`
                # says so when the bytes are needed: data.stage may copy the file first.
                with contextlib.suppress(OSError):
                    # Held as long as the mapping, which has the file open: `fastgen clean` removes no set in use.
                    with contextlib.suppress(OSError):
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    self._mapped = np.asarray(np.memmap(file, np.uint8, "r"))
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such file; bake it first (fastgen bake recipe=...)") from None
        except UserError:
            raise
        except (ArithmeticError, MemoryError, OSError, ValueError) as error:  # numbers that no file can mean
            raise UserError(f"{self.path}: damaged header ({error}); delete it and bake again") from error

    def _read(self, file: BinaryIO) -> None:
        def table(dtype: np.dtype, count: int) -> np.ndarray:
            data = file.read(count * dtype.itemsize)
            if len(data) != count * dtype.itemsize:
                raise UserError(f"{self.path}: cut short or never finished; delete it and bake again")
            return np.frombuffer(data, dtype)

        header = table(_HEADER, 1)[0]
        if header["version"] != _VERSION:
            raise UserError(
                f"{self.path}: not a finished .beton of version {_VERSION} (version field {header['version']}); "
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
        self.metadata = table(metadata_dtype(len(self.names)), self.samples)
        image = self.metadata["image"]
        self.mode, self.width, self.height, self.ptr = (image[name] for name in ("mode", "width", "height", "ptr"))
        self.raw: np.ndarray = self.mode == RAW
        self.fixed_size = fixed_size(self.height, self.width)
        self.table_ptr = int(header["table"])
        file.seek(self.table_ptr)
        allocations = table(_ALLOCATION, self.samples)
        if file.read(1):
            raise UserError(f"{self.path}: does not end with its last table: it is damaged; delete it and bake again")
        # FFCV's writer orders this table by worker; sorted by address it can be looked up.
        allocations = allocations[np.argsort(allocations["ptr"], kind="stable")]
        allocations = allocations[np.minimum(np.searchsorted(allocations["ptr"], self.ptr), self.samples - 1)]
        self.sizes = allocations["size"]
        self.payload_start = payload_start(self.samples, len(self.names), self.page_bytes)
        # Decoders are given these addresses and sizes unchecked.
        pixels = self.height.astype(np.uint64) * self.width * 3
        end = self.ptr + self.sizes
        wrong = (self.ptr < self.payload_start) | (end > self.table_ptr) | (end < self.ptr)
        wrong |= (allocations["ptr"] != self.ptr) | (self.raw & (self.sizes != pixels))
        if wrong.any():
            raise UserError(f"{self.path}: row {int(np.flatnonzero(wrong)[0])} lies nowhere in the file: it is damaged")

    @property
    def columns(self) -> dict[str, np.ndarray]:
        return {name: self.metadata[f"c{i}"].copy() for i, name in enumerate(self.names)}

    def encoded(self, rows_of_batches: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """What is stored of each batch's images, where it lies in the mapped file: uint8 (bytes,) each."""
        begins, ends = self.ptr.astype(np.int64), (self.ptr + self.sizes).astype(np.int64)
        for rows in rows_of_batches:
            yield [self.data[begin:end] for begin, end in zip(begins[rows].tolist(), ends[rows].tolist(), strict=True)]

    @property
    def data(self) -> np.ndarray:
        """The file's bytes, mapped read-only: uint8 (file size,). Raises UserError where no file can be mapped.

        One mapping for good, as a new one costs a page fault for every few pages that are read again. An array, as
        slices of a numpy.memmap cost five times as much.
        """
        if self._mapped is None:
            raise UserError(
                f"{self.path}: its file system maps no files; have it copied to a local disk (data.stage=FOLDER), or "
                "stream an export of it (fastgen export, data.shards=FOLDER)"
            )
        return self._mapped

    def image(self, row: int) -> np.ndarray:
        """The decoded image of a row: uint8 (H, W, 3)."""
        begin = int(self.ptr[row])
        encoded = self.data[begin : begin + int(self.sizes[row])]
        if self.raw[row]:
            return encoded.reshape(int(self.height[row]), int(self.width[row]), 3)
        try:
            return np.asarray(Image.open(io.BytesIO(bytes_of(encoded))).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            index = f", sample {self.columns['index'][row]}" if "index" in self.names else ""
            raise UserError(
                f"{self.path} row {row}{index}: cannot be decoded ({error}); the file is damaged, "
                "delete its folder and bake again"
            ) from error

    def raw_images(self) -> np.ndarray:
        """A copy of all images in file order: uint8 (samples, H, W, 3). All raw and of one size."""
        assert self.fixed_size is not None and self.raw.all()
        height, width = self.fixed_size
        size = height * width * 3
        out = np.empty((self.samples, size), np.uint8)
        # One copy per contiguous run (a page each); gathering with an index array takes 90 times as long.
        ends = np.flatnonzero(np.diff(self.ptr.astype(np.int64)) != size) + 1
        for first, last in zip(np.r_[0, ends], np.r_[ends, self.samples], strict=True):
            begin = int(self.ptr[first])
            out[first:last] = self.data[begin : begin + (last - first) * size].reshape(-1, size)
        return out.reshape(self.samples, height, width, 3)

    def hashes(self, payload: bool = True) -> Hashes:
        """Hash the file again (see `Hashes`); without the payload only the tables are read."""
        with open(self.path, "rb") as file:
            digest = hashlib.sha256(file.read(self.payload_start))
            part_bytes = PART_PAGES * self.page_bytes
            starts = range(self.payload_start, self.table_ptr, part_bytes) if payload else ()
            parts = [hashlib.sha256(file.read(min(part_bytes, self.table_ptr - s))).hexdigest() for s in starts]
            file.seek(self.table_ptr)
            digest.update(file.read())
        return Hashes(digest.hexdigest(), parts)
