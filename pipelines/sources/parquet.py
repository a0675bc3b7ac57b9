"""Local Parquet files in the Hugging Face Hub's image/label layout.

A row holds an image column (image or img: bytes, or {bytes, path}) and a label column (label, labels, ...: integers or
text). Row i of the files in name order is sample i. Image bytes are read a row group at a time, and the latest row
groups are kept up to a fixed amount of memory.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.sources.base import Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import find_parquet, named_root, unread_parquet
from pipelines.sources.parquet_labels import Classes, Labels, classes_of, column_type, read_labels

_CACHE_BYTES = 2 << 30  # of row groups kept in memory, at most: beyond, the one read longest ago is dropped
_IMAGE_NAMES = ("image", "img")


class ParquetSource(Source):
    """The rows of `files` (below `root`).

    known: the classes of a well-known set, whose class k is label k. training: the files of the training split, where
    `files` are another's: their classes are those of this one too. spec: names the columns.
    """

    def __init__(
        self,
        root: Path,
        files: list[Path],
        known: Classes | None = None,
        channels: int = 3,
        training: list[Path] | None = None,
        spec: SourceSpec | None = None,
    ) -> None:
        spec = spec or SourceSpec()
        self.paths, self._parts = files, [_read_part(path, spec) for path in files]
        others = [_read_part(path, spec) for path in training or []]
        _refuse_other_columns([*others, *self._parts])
        labels = [part.labels for part in self._parts]
        if known is not None:
            classes = known
        elif others:
            classes, _ = classes_of([part.labels for part in others])
        else:
            classes, self.notes = classes_of(labels)
        self.class_names = classes.names
        self.labels = np.concatenate([label.classes(classes) for label in labels])
        if not len(self.labels):
            raise UserError(f"{files[0]} has no rows; copy or download it again, or remove it")
        self.channels = channels
        self.fingerprint = fingerprint_files(root if root.is_dir() else root.parent, files)
        self._groups = [(f, g) for f, part in enumerate(self._parts) for g in range(part.metadata.num_row_groups)]
        rows = [self._parts[f].metadata.row_group(g).num_rows for f, g in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        if self._starts[-1] != len(self.labels):
            raise UserError(f"{files[0]}: {self._starts[-1]:,} rows and {len(self.labels):,} labels: download it again")
        self._cache: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()  # bakes read from several threads, which would read a row group each

    def _group(self, number: int) -> pa.ChunkedArray:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            file, group = self._groups[number]
            part = self._parts[file]
            if _stamp(self.paths[file]) != part.stamp:
                raise UserError(
                    f"{self.paths[file]} was changed while it was read, so nothing of it is used; begin again"
                )
            with _opened(self.paths[file], part.metadata) as opened:
                cells = opened.read_row_group(group, columns=[part.image_column]).column(0)
                if len(cells) != self._starts[number + 1] - self._starts[number]:
                    raise ValueError(f"row group {group} has {len(cells)} images")
            self._cache[number] = pc.struct_field(cells, "bytes") if pa.types.is_struct(cells.type) else cells
            while len(self._cache) > 1 and sum(a.nbytes for a in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            return self._cache[number]

    def read(self, index: int) -> bytes:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        data: bytes | None = self._group(number)[index - int(self._starts[number])].as_py()
        if data is None:
            raise UserError(f"{self.sample_name(index)}: holds no image bytes (only a path?); write the images into it")
        return data

    def sample_name(self, index: int) -> str:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        file = self._groups[number][0]
        first = next(i for i, (f, _) in enumerate(self._groups) if f == file)
        return f"{self.paths[file]} row {index - int(self._starts[first])}"


@contextmanager
def _opened(path: Path, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """An open file, not mapped into memory: if it is cut short meanwhile, that is an error and not the process's end.

    metadata: of an earlier time, which saves reading it. Raises UserError naming a file that pyarrow cannot read.
    """
    try:
        with pq.ParquetFile(path, metadata=metadata, page_checksum_verification=True) as file:
            yield file
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet, it is damaged, cut short or of another kind ({error}); "
            "copy or download it again"
        ) from error


@dataclass(frozen=True)
class _Part:
    """What is kept of one file. stamp: tells whether it was changed since. image_column: the path of the bytes."""

    stamp: tuple[int, ...]
    metadata: pq.FileMetaData
    image_column: str
    labels: Labels


def _read_part(path: Path, spec: SourceSpec) -> _Part:
    stamp = _stamp(path)
    with _opened(path) as file:
        column = _image_column(file.schema_arrow, path, spec.image_column)
        return _Part(stamp, file.metadata, column, read_labels(path, file, spec.label_column))


def _refuse_other_columns(parts: list[_Part]) -> None:
    """Raises UserError for files that hold images or labels in columns of other names than the first."""
    first = parts[0]
    for part in parts:
        for of_first, column in ((first.image_column, part.image_column), (first.labels.column, part.labels.column)):
            if of_first != column:
                raise UserError(
                    f"{part.labels.path}: column {column} stands for {of_first} in {first.labels.path}; rename it"
                )


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy or download it again") from error
    return status.st_size, status.st_mtime_ns, status.st_ino


def _image_column(schema: pa.Schema, path: Path, chosen: str | None) -> str:
    """The path of the column with the image files' bytes: `chosen`, else image or img."""
    held = [field.name for field in schema if _bytes_of(field.name, field.type) is not None]
    name = chosen or next((name for name in _IMAGE_NAMES if name in schema.names), None)
    if name is None:
        raise UserError(
            f"{path}: no image column ({' or '.join(_IMAGE_NAMES)}); name it by data.image_column; those with bytes: "
            f"{', '.join(held) or 'none'}; columns: {', '.join(schema.names)}"
        )
    kind = column_type(schema, path, name, "data.image_column")
    found = _bytes_of(name, kind)
    if found is None:
        raise UserError(
            f"{path}: column {name} is of type {kind}; an image is its file's bytes, or {{bytes, path}}: write "
            f"the column so, or name another by data.image_column ({', '.join(held) or 'none holds bytes'})"
        )
    return found


def _bytes_of(name: str, kind: pa.DataType) -> str | None:
    """The path of the bytes in a column, None where it holds none."""
    if pa.types.is_struct(kind):
        places = kind.get_all_field_indices("bytes")
        return f"{name}.bytes" if len(places) == 1 and _bytes_of(name, kind.field(places[0]).type) == name else None
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return name if is_binary else None


def open_split(spec: SourceSpec, split: str) -> ParquetSource | None:
    root = named_root(spec, "a Parquet file or a folder of them")
    training, files = (find_parquet(root, name, spec.split_train, spec.split_test) for name in ("train", split))
    if not training:
        raise UserError(
            f"data.root={spec.root} holds no *.parquet training files; name another folder, or set data.split_train"
        )
    if not files:
        return None
    source = ParquetSource(root, files, training=None if split == "train" else training, spec=spec)
    if split == "train" and (unread := unread_parquet(root, spec.split_train, spec.split_test)):
        source.notes += (f"{root}: of its splits these are not read: {', '.join(unread)}",)
    return source
