"""Local Parquet files in the Hugging Face Hub's image/label layout.

A row holds an image column {bytes, path} (image, img, ...) and an integer label column (label, labels, ...).
Row i of the files in name order is sample i. Image bytes are read a row group at a time, and the latest row
groups are kept up to a fixed amount of memory.
"""

import json
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import UserError
from pipelines.sources.base import Source, SourceSpec, fingerprint_files
from pipelines.sources.layouts import find_parquet, named_root

_CACHE_BYTES = 2 << 30  # of row groups kept in memory, at most: beyond, the one read longest ago is dropped
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")


class ParquetSource(Source):
    """The rows of `files` (below `root`); class names from the Hub's metadata unless given."""

    def __init__(self, root: Path, files: list[Path], class_names: list[str] | None = None, channels: int = 3) -> None:
        self.files = [pq.ParquetFile(path, memory_map=True) for path in files]
        self.paths = files
        schema = self.files[0].schema_arrow
        self._image_column = _image_column(schema, files[0])
        label_column = _label_column(schema, files[0])
        self.labels = np.concatenate(
            [file.read([label_column]).column(0).to_numpy().astype(np.int64) for file in self.files]
        )
        if self.labels.size and self.labels.min() < 0:
            raise UserError(f"{files[0]}: label {self.labels.min()} is negative; this split comes without labels")
        names = class_names or _hub_class_names(schema, label_column)
        self.class_names = names or [str(c) for c in range(int(self.labels.max()) + 1)]
        if self.labels.size and self.labels.max() >= len(self.class_names):
            raise UserError(f"{files[0]}: label {self.labels.max()} is not below {len(self.class_names)} classes")
        self.channels = channels
        self.fingerprint = fingerprint_files(root if root.is_dir() else root.parent, files)
        self._groups = [(f, g) for f, file in enumerate(self.files) for g in range(file.num_row_groups)]
        rows = [self.files[f].metadata.row_group(g).num_rows for f, g in self._groups]
        self._starts = np.concatenate([[0], np.cumsum(rows)])
        self._cache: OrderedDict[int, pa.Array] = OrderedDict()
        self._lock = threading.Lock()  # bakes read from several threads; a ParquetFile does not allow that

    def _group(self, number: int) -> pa.Array:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            file, group = self._groups[number]
            column = self.files[file].read_row_group(group, columns=[f"{self._image_column}.bytes"])
            cells = column.column(0).combine_chunks()
            self._cache[number] = cells.field("bytes") if pa.types.is_struct(cells.type) else cells
            while len(self._cache) > 1 and sum(a.nbytes for a in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
            return self._cache[number]

    def read(self, index: int) -> bytes:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        data: bytes | None = self._group(number)[index - int(self._starts[number])].as_py()
        if data is None:
            raise UserError(f"{self.sample_name(index)}: holds no image bytes (only a path?)")
        return data

    def sample_name(self, index: int) -> str:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        file = self._groups[number][0]
        first = next(i for i, (f, _) in enumerate(self._groups) if f == file)
        return f"{self.paths[file]} row {index - int(self._starts[first])}"


def _image_column(schema: pa.Schema, path: Path) -> str:
    for field in schema:
        if pa.types.is_struct(field.type) and "bytes" in [child.name for child in field.type]:
            return str(field.name)
    raise UserError(f"{path}: no image column {{bytes, path}}; columns: {', '.join(schema.names)}")


def _label_column(schema: pa.Schema, path: Path) -> str:
    for name in _LABEL_NAMES:
        if name in schema.names and pa.types.is_integer(schema.field(name).type):
            return name
    raise UserError(f"{path}: no integer label column ({', '.join(_LABEL_NAMES)}); columns: {', '.join(schema.names)}")


def _hub_class_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    """The ClassLabel names that `datasets` writes into the schema's metadata."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    features = json.loads(raw).get("info", {}).get("features", {})
    names: list[str] | None = features.get(label_column, {}).get("names")
    return names


def open_split(spec: SourceSpec, split: str) -> ParquetSource | None:
    root = named_root(spec, "a Parquet file or a folder of them")
    files = find_parquet(root, split)
    if not files:
        if split == "train":
            raise UserError(f"data.root={spec.root} holds no *.parquet training files")
        return None
    return ParquetSource(root, files)
