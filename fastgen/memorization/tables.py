"""What is kept of the estimates: samples.parquet, influence.parquet."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastgen.memorization.estimates import Memorization, consistency
from fastgen.memorization.influence import Pairs
from pipelines.durable import write_durably

SAMPLES, PAIRS, MATRIX = "samples.parquet", "influence.parquet", "influence.npy"


def write_samples(
    root: Path,
    given: np.ndarray,
    true: np.ndarray,
    found: Memorization,
    margin_out: np.ndarray,
    by_fraction: dict[float, Memorization],
    class_names: list[str],
    files: list[str] | None,
) -> None:
    """A row for each training sample, in order of its index.

    index, given_label, true_label: int64. given_class, true_class: text. sample: text, the sample's file, where the
    source knows it (files: not None). memorization, standard_error, accuracy_in, accuracy_out: float64; null where
    no network has the sample in, or none has it out. networks_in, networks_out: int64. margin_out: float64, the
    mean margin of the given label, its logit minus the largest other, in networks without the sample. c_score: float64,
    the mean of accuracy_out over the fractions; with several of them, accuracy_out_at_F: float64, of each.
    """
    columns = {
        "index": np.arange(len(given)),
        "given_label": given,
        "true_label": true,
        "given_class": np.array(class_names)[given],
        "true_class": np.array(class_names)[true],
        "memorization": _nulls(found.value),
        "standard_error": _nulls(found.error),
        "networks_in": found.inside,
        "networks_out": found.outside,
        "accuracy_in": _nulls(found.accuracy_inside),
        "accuracy_out": _nulls(found.accuracy_outside),
        "margin_out": _nulls(margin_out),
        "c_score": _nulls(consistency(by_fraction)),
    }
    if files is not None:
        columns["sample"] = files
    if len(by_fraction) > 1:
        columns |= {f"accuracy_out_at_{f:g}": _nulls(one.accuracy_outside) for f, one in by_fraction.items()}
    _write(root / SAMPLES, pa.table(columns))


def clear(root: Path, pairs: bool, matrix: bool) -> None:
    """Take away what an earlier command has left that this one does not write again."""
    for name, written in ((PAIRS, pairs), (MATRIX, matrix)):
        if not written:
            (root / name).unlink(missing_ok=True)


def write_pairs(root: Path, pairs: Pairs) -> None:
    """A row for each pair that is kept, by test sample, the largest influence first: test_index, train_index: int64;
    influence: float32; standard_error: float64."""
    known = ~np.isnan(pairs.influence)
    test = np.broadcast_to(np.arange(len(pairs.train))[:, None], pairs.train.shape)
    columns = {"test_index": test, "train_index": pairs.train}
    columns |= {"influence": pairs.influence, "standard_error": pairs.error}
    _write(root / PAIRS, pa.table({name: values[known] for name, values in columns.items()}))


def _nulls(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _write(path: Path, table: pa.Table) -> None:
    content = BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_durably(path, content.getvalue())
