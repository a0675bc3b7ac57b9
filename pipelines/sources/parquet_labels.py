"""What the label column of Parquet files says: of which kind it is, which classes there are, and each row's class."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import UserError, shown
from pipelines.sources.layouts import order_note
from pipelines.sources.walk import is_hidden

_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
_MOST_CLASSES = 1_000_000  # without names: an integer from there on is an identifier, or damage
_NUMBERS, _TEXT, _NAMED = "integers without names", "text", "integers with the Hub's names"


@dataclass(frozen=True)
class Classes:
    """names: of each class. numbers: the integer that stands for each where a file has no names; None: none does.

    spellings: what files call a class otherwise -> its name.
    """

    names: list[str]
    numbers: np.ndarray | None
    spellings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    """The labels of one file. kind: how they are written. codes: int64 (n,), into `names`, or (None) as they are."""

    path: Path
    column: str
    kind: str
    codes: np.ndarray
    names: list[str] | None

    def classes(self, known: Classes) -> np.ndarray:
        """The class of each row among the known ones: int64 (n,). Raises UserError for a label that is none of them."""
        if self.names is not None:
            listed, rows = np.array(self.names, object), self.codes
            place: dict[Any, int] = {name: at for at, name in enumerate(known.names)}
            place |= {other: place[name] for other, name in known.spellings.items()}
        elif known.numbers is not None:
            listed, rows = np.unique(self.codes, return_inverse=True)
            place = {number: at for at, number in enumerate(known.numbers.tolist())}
        else:
            raise UserError(f"{self.path}: labels are {self.kind}, and the training split's are named: {_ALIKE}")
        found: np.ndarray = np.array([place.get(label, -1) for label in listed.tolist()], np.int64)[rows]
        if found.size and found.min() < 0:
            row = int(np.argmin(found))
            raise UserError(
                f"{self.path} row {row}: label {listed[rows[row]]} is none of the {len(known.names)} classes that are "
                f"known ({', '.join(known.names[:4])}, ...); complete the training split or remove the row (of a "
                "well-known set data.source=parquet takes any classes)"
            )
        return found


_ALIKE = "which is which is not known; write all files with the same features"


def classes_of(files: list[Labels]) -> tuple[Classes, tuple[str, ...]]:
    """The classes of a training split, and what is to be said of them.

    Named by the Hub's metadata they keep its order; text is sorted; integers without names are sorted by value. Every
    class has samples. Raises UserError for files that differ, and for a named class without samples, unless its name is
    a hidden or a system's folder's.
    """
    first = files[0]
    for other in files[1:]:
        if other.kind != first.kind:
            raise UserError(f"{other.path}: labels are {other.kind}, and {first.kind} in {first.path.name}: {_ALIKE}")
        if other.kind == _NAMED and set(other.names or ()) != set(first.names or ()):
            raise UserError(f"{other.path}: names other classes than {first.path.name}; remove one of the two")
    if first.kind == _TEXT:
        names = sorted({name for file in files for name in file.names or ()})
        return Classes(names, None), order_note(names)
    if first.kind == _NAMED:
        found = {name for file in files for at in np.unique(file.codes) if (name := (file.names or [])[at])}
        for name in first.names or ():
            if is_hidden(name) and name in found:
                raise UserError(f"{first.path.parent}: class {name} is named as a hidden folder; remove its rows")
            if name not in found and not is_hidden(name):
                raise UserError(
                    f"{first.path}: class {name} has no samples; complete the files, or write them without this class"
                )
        return Classes([name for name in first.names or () if name in found], None), ()
    numbers = np.unique(np.concatenate([file.codes for file in files]))
    notes: tuple[str, ...] = ()
    if len(numbers) and numbers[-1] != len(numbers) - 1:
        notes = (
            f"{first.path.parent}: labels are {numbers[0]} to {numbers[-1]}, {len(numbers)} of them in use: class 0 is "
            f"label {numbers[0]}, class {len(numbers) - 1} label {numbers[-1]}",
        )
    return Classes([str(number) for number in numbers], numbers), notes


def label_column(schema: pa.Schema, path: Path, chosen: str | None) -> str:
    """The column of the labels: `chosen`, else label, else the only one of the usual names or of the Hub's features."""
    if chosen is not None:
        return chosen
    found = [name for name in _LABEL_NAMES if name in schema.names]
    found = found or [name for name in schema.names if _class_names(schema, name, path) is not None]
    if not found or (len(found) > 1 and found[0] != _LABEL_NAMES[0]):
        told = f"{' and '.join(found)} may all hold labels" if found else f"no label column ({', '.join(_LABEL_NAMES)})"
        raise UserError(
            f"{path}: {told}; name it by data.label_column (or set data.split_test=none), of: {', '.join(schema.names)}"
        )
    return found[0]


def column_type(schema: pa.Schema, path: Path, column: str, key: str) -> pa.DataType:
    """The type of a column that must be there once."""
    places = schema.get_all_field_indices(column)
    if len(places) != 1:
        told = f"{len(places)} columns are called {column}" if places else f"no column is called {column}"
        raise UserError(f"{path}: {told}; columns: {', '.join(schema.names)}; write the file anew, or set {key}")
    return schema.field(places[0]).type


def read_labels(path: Path, file: pq.ParquetFile, chosen: str | None) -> Labels:
    """The label column of an open file. Raises UserError naming the first row that has no valid label."""
    schema = file.schema_arrow
    column = label_column(schema, path, chosen)
    kind = column_type(schema, path, column, "data.label_column")
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    text = pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain)
    if not (text or pa.types.is_integer(plain) or pa.types.is_boolean(plain)):
        raise UserError(
            f"{path}: column {column} is of type {kind}; labels are integers or text: write it as one of these, or "
            "name another column by data.label_column"
        )
    read = file.read([column]).column(column).cast(plain)
    if read.null_count:
        row = pc.index(pc.is_null(read), True).as_py()
        raise UserError(
            f"{path} row {row}: no label ({read.null_count:,} such rows); remove these rows, or set "
            "data.split_test=none for a test split without labels"
        )
    if text:
        read.validate(full=True)
        encoded = read.combine_chunks().cast(pa.large_string()).dictionary_encode()
        values = encoded.dictionary.to_pylist()
        if "" in values:
            raise UserError(
                f"{path} row {pc.index(read, '').as_py()}: an empty label; name its class, or remove the row"
            )
        return Labels(
            path, column, _TEXT, encoded.indices.to_numpy().astype(np.int64), [shown(value) for value in values]
        )
    return _numbers(path, column, schema, read.cast(pa.int8() if pa.types.is_boolean(plain) else pa.int64()).to_numpy())


def _numbers(path: Path, column: str, schema: pa.Schema, values: np.ndarray) -> Labels:
    codes = values.astype(np.int64)
    names = _class_names(schema, column, path)
    most = _MOST_CLASSES if names is None else len(names)
    wrong = (codes < 0) | (codes >= most)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path} row {row}: label {codes[row]} is not in 0..{most - 1} ({int(wrong.sum()):,} such rows; -1: no "
            "label); mend or remove these rows, or set data.split_test=none for a test split without labels"
        )
    return Labels(path, column, _NUMBERS if names is None else _NAMED, codes, names)


def _class_names(schema: pa.Schema, column: str, path: Path) -> list[str] | None:
    """The class names that `datasets` writes into the schema's metadata; None for a column that has none."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return None
    try:
        info: dict[str, Any] = json.loads(raw).get("info") or {}
        names = ((info.get("features") or {}).get(column) or {}).get("names")
    except (ValueError, AttributeError, RecursionError):
        names = ()
    if names is None:
        return None
    if not (isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)):
        raise UserError(f"{path}: the Hub's metadata of its features is damaged; download or write the file again")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: the Hub's metadata names a class of {column} twice; write the file again")
    return [shown(name) for name in names]
