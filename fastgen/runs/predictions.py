"""predictions.parquet: what a trained network says of every training and test sample (train.predictions=true).

A row a sample, the training samples first, each split in order of the sample index. A boolean takes one bit, the margin
two bytes; the hash is in summary.json.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastgen.runs.summary import Summary
from pipelines.durable import read_regular, write_durably
from pipelines.errors import UserError

PREDICTIONS = "predictions.parquet"
_LARGEST = float(np.finfo(np.float16).max)
_SCHEMA = pa.schema(
    [
        ("train", pa.bool_()), ("index", pa.int32()), ("member", pa.bool_()), ("correct_given", pa.bool_()),
        ("correct_true", pa.bool_()), ("margin", pa.float16()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """Of one split, in order of the sample index, (n,) each. member: bool, it was trained on. correct_given,
    correct_true: bool, the network gives it that label. margin: float16, the given label's logit minus the largest
    other, cut off at the largest float16."""

    member: np.ndarray
    correct_given: np.ndarray
    correct_true: np.ndarray
    margin: np.ndarray


def write(
    folder: Path, splits: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], members: np.ndarray | None
) -> str:
    """Write a run's predictions, and return the file's SHA-256. splits: "train", and the test split if there is one ->
    correct on the given and on the true label (bool), margin (float32). members: bool, of the training split; None for
    all of it."""
    tables = []
    for split in sorted(splits, key=lambda name: name != "train"):
        correct_given, correct_true, margin = splits[split]
        n, train = len(margin), split == "train"
        member = np.full(n, train) if members is None or not train else members
        half = np.clip(margin, -_LARGEST, _LARGEST).astype(np.float16)
        columns = [np.full(n, train), np.arange(n, dtype=np.int32), member, correct_given, correct_true, half]
        tables.append(pa.table(columns, schema=_SCHEMA))
    content = BytesIO()
    pq.write_table(
        pa.concat_tables(tables), content, use_dictionary=False, compression="zstd",
        column_encoding={"index": "DELTA_BINARY_PACKED"},
    )  # fmt: skip
    write_durably(folder / PREDICTIONS, content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read(folder: Path, summary: Summary) -> tuple[Predictions, Predictions]:
    """Of the training set and of the test set (without samples where there is none). Raises UserError for a missing or
    damaged file."""
    path = folder / PREDICTIONS
    remedy = f"delete {folder} and train it again"
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from None
    if hashlib.sha256(content).hexdigest() != summary.predictions_sha256:
        raise UserError(f"{path} is not what its run wrote (summary.json has its hash); {remedy}")
    table = pq.read_table(BytesIO(content), schema=_SCHEMA)
    train = table["train"].to_numpy()
    names = ("member", "correct_given", "correct_true", "margin")
    first, second = (Predictions(*(table[name].to_numpy()[part] for name in names)) for part in (train, ~train))
    return first, second
