"""Label tables: files of given labels as label-noise projects publish them, a label for each training sample."""

import io
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.durable import read_regular
from pipelines.errors import Note, UserError

KINDS = ".npy, .npz, .csv, .parquet, .json, .pt"
_CLEAN = ("clean_label", "true_label")  # as in CIFAR-N's files, and in fastgen's own labels.parquet
_CLEAN_OF = {"noisy_coarse_label": ("clean_coarse_label",)}  # CIFAR-100N's superclasses
_INDEX = "index"
_UNNAMED = ("", "unnamed: 0", "__index_level_0__")  # what pandas calls an index without a name
_NUMBERS = "biuf"  # numpy's kinds


def read_labels(
    file: str, column: str | None, true: np.ndarray, num_classes: int, total: int, positions: np.ndarray | None = None
) -> np.ndarray:
    """The labels in `column` of `file` (None: its only one), int64 (n,) in [0, num_classes), sample index = position.

    true: the true labels, int64 (n,). total: of samples, where those are a part of more; a table may have a row for
    each. positions: the numbers of these among the total (None: the first n). Rows are in the order of an index column,
    if there is one. Raises UserError for a table that does not fit, or whose order is not known.
    """
    columns = {name: values for name, values in _read(Path(os.path.expanduser(file)), file).items() if values.ndim}
    indices = [name for name in columns if name.strip().lower() in (_INDEX, *_UNNAMED)]
    known = [name for name in columns if name not in (*_CLEAN, *indices)]
    column = column if column is not None or len(known) != 1 else known[0]
    clean = [name for name in _CLEAN_OF.get(column or "", _CLEAN) if name in columns and name != column][:1]
    if not columns:
        raise UserError(f"data.labels.file={file} holds no list of labels")
    if column is None or column not in columns:
        raise UserError(
            f"data.labels.file={file} has the columns {', '.join(sorted(columns))}; "
            "name one of them as data.labels.column"
        )
    labels, n = _classes(columns[column], num_classes, f"{file}: column '{column}'"), len(true)
    if len(labels) not in (n, total):
        of = f", of {total:,} in all" if total != n else ""
        raise UserError(f"{file}: {len(labels):,} labels for {n:,} training samples{of}")
    for name in (*indices, *clean):
        if len(columns[name]) != len(labels):
            raise UserError(f"{file}: its column '{name}' has {len(columns[name]):,} rows, '{column}' {len(labels):,}")
    order = _order(columns[min(indices, key=_is_unnamed)], file) if indices else np.arange(len(labels))
    if len(labels) == total and total != n:
        order = order[np.arange(n) if positions is None else positions]
    for name in clean:
        differ = int((_classes(columns[name], num_classes, f"{file}: column '{name}'")[order] != true).sum())
        if differ:
            raise UserError(
                f"{file}: its {name} differs from the true label of {differ:,} samples, so it is in another "
                "order than this source (CIFAR-10N follows torchvision's order, not the Hub's), or of another set"
            )
    if not indices and not clean and len(labels) > num_classes:
        _refuse_names({name: columns[name] for name in known if name != column}, file)
    given: np.ndarray = labels[order]
    return given


def _is_unnamed(name: str) -> bool:
    return name.strip().lower() in _UNNAMED


def _order(index: np.ndarray, file: str) -> np.ndarray:
    """The row of each sample, from the sample of each row."""
    if index.ndim == 1 and index.dtype.kind in _NUMBERS:
        order = np.argsort(index, kind="stable")
        first = index[order[0]]
        if first in (0, 1) and np.array_equal(index[order], np.arange(first, first + len(index))):
            if first == 1:
                warnings.warn(f"{file}: the samples in its index are counted from 1", Note, stacklevel=3)
            return order
    raise UserError(
        f"{file}: its index does not number the samples from 0 to {len(index) - 1:,}, so which label is whose is not "
        "known; number them, or remove that column if the rows are in the order of the samples"
    )


def _refuse_names(others: dict[str, np.ndarray], file: str) -> None:
    """Raises UserError for a column that names each row and is not sorted: the rows are in an order of their own."""
    for name, values in others.items():
        if values.ndim != 1 or values.dtype.kind == "f":
            continue
        listed = values.tolist() if values.dtype.kind in _NUMBERS else [str(value) for value in values]
        if len(set(listed)) == len(listed) and listed != sorted(listed):
            raise UserError(
                f"{file}: its column '{name}' names each row, and the rows are not in its order, so which label is "
                f"whose is not known; add a column {_INDEX} with each row's sample (from 0), or remove '{name}' if "
                "the rows are in the order of the samples"
            )


def _classes(values: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Labels int64 (n,) in [0, num_classes) of any numbers that say the classes."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.shape[1] == num_classes and values.dtype.kind in _NUMBERS:
        hot = values != 0
        if not ((hot.sum(1) == 1) & (values == hot).all(1)).all():
            raise UserError(f"{where} holds {num_classes} numbers a sample, which are not a one and zeros")
        warnings.warn(f"{where} is one-hot: the class is the place of the one", Note, stacklevel=3)
        values = hot.argmax(1)
    if values.ndim != 1 or values.dtype.kind not in _NUMBERS:
        raise UserError(f"{where} holds {values.dtype} {values.shape}, not integers")
    if values.dtype.kind == "f" and (odd := values != np.round(values)).any():  # also true of what is not a number
        row = int(odd.argmax())
        raise UserError(f"{where} holds {values[row]} in row {row}, not integers")
    if len(values) and values.min() >= 1 and values.max() == num_classes:
        warnings.warn(f"{where} counts classes from 1, which is taken for the first class", Note, stacklevel=3)
        values = values - 1
    out = (values < 0) | (values >= num_classes)
    if out.any():
        row = int(out.argmax())
        raise UserError(f"{where}: label {values[row]:g} in row {row} is not in 0..{num_classes - 1}")
    return values.astype(np.int64)


def _read(path: Path, written: str) -> dict[str, np.ndarray]:
    """The columns of a file of one of KINDS."""
    suffix = path.suffix.lower()
    try:
        data = read_regular(path)
        if suffix in (".npy", ".npz"):
            loaded = np.load(io.BytesIO(data), allow_pickle=False)
            columns = _columns(loaded if suffix == ".npy" else dict(loaded))
        elif suffix == ".json":
            columns = _columns(json.loads(data))
        elif suffix == ".pt":
            columns = _columns(_load_tensors(data, written))
        elif suffix in (".csv", ".parquet"):
            columns = _read_rows(data, suffix)
        else:
            raise UserError(f"data.labels.file={written}: known kinds are {KINDS}")
    except UserError:
        raise
    except Exception as error:  # of a damaged file, each reader raises what its parsing comes upon
        raise UserError(f"data.labels.file={written} cannot be read: {error}") from error
    return columns


def _columns(loaded: Any) -> dict[str, np.ndarray]:
    """A dictionary of columns, or the one column that is not in any."""
    if isinstance(loaded, dict):
        return {str(name): np.asarray(values) for name, values in loaded.items()}
    return {"label": np.asarray(loaded)}


def _load_tensors(data: bytes, written: str) -> Any:
    """What torch.save wrote, of tensors, numpy's arrays and plain values alone: nothing else in it is loaded."""
    import torch

    rebuild: Any = np._core.multiarray  # type: ignore[attr-defined]
    allowed: list[Any] = [np.ndarray, np.dtype, *{type(np.dtype(kind)) for kind in np.typecodes["All"]}]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # as numpy 1 and 2 write it
        allowed += [(rebuild._reconstruct, f"{module}._reconstruct"), (rebuild.scalar, f"{module}.scalar")]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # its own text advises to load it without a check
        raise UserError(
            f"data.labels.file={written} is damaged, or holds more than tensors, numpy's arrays and plain values "
            f"({type(error).__name__}); nothing else is loaded, as it could execute code. Save its columns as .npz"
        ) from error


def _read_rows(data: bytes, suffix: str) -> dict[str, np.ndarray]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    else:
        table = pyarrow.csv.read_csv(io.BytesIO(data))
        if _are_numbers(table.column_names):  # the first row, of a file without a header
            options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
            table = pyarrow.csv.read_csv(io.BytesIO(data), read_options=options)
    plain = {name: pa.types.is_primitive(table.schema.field(name).type) for name in table.column_names}
    columns = {
        name: table.column(name).to_numpy() if plain[name] else np.asarray(table.column(name).to_pylist())
        for name in table.column_names
    }
    for index in (table.schema.pandas_metadata or {}).get("index_columns", ()):
        if isinstance(index, dict):  # a RangeIndex, which pandas writes as its bounds and not as a column
            columns["__index_level_0__"] = np.arange(index["start"], index["stop"], index["step"])
    return columns


def _are_numbers(names: Iterable[str]) -> bool:
    try:
        return all(np.isfinite(float(name)) for name in names)
    except ValueError:
        return False
