"""Per-example dynamics: the files in RUN_DIR/dynamics, and the measures of memorisation that follow from them.

epoch-00012.parquet holds one row per training sample, in order of the sample index, as recorded during that epoch
(`fastgen.training.recorder`); labels.parquet the labels; samples.parquet one row per sample over all epochs;
pred_probs.npy and others the probabilities of all classes. Epochs count from 1, so that an epoch's number is that of
metrics.jsonl at its end.
"""

import re
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from fastgen.terminal import console
from pipelines.durable import read_regular, write_durably
from pipelines.errors import UserError

FOLDER = "dynamics"
MEASURES = ("loss_nats", "probability", "margin", "correct_given", "correct_true", "seen")
MOST_PROBABILITIES = 1 << 26  # samples x classes (256 MiB of float32): a larger set has no pred_probs.npy
_FLAGS = ("correct_given", "correct_true", "seen")
_TYPES = {
    "index": pa.int64(), "given_label": pa.int64(), "true_label": pa.int64(), "epoch": pa.int32(),
    **{name: pa.bool_() if name in _FLAGS else pa.float32() for name in MEASURES},
}  # fmt: skip
_OF_LABELS, _OF_EPOCH = ("index", "given_label", "true_label"), ("index", "epoch", *MEASURES)
_LABELS, _SAMPLES = "labels.parquet", "samples.parquet"
# Probabilities of all classes, float32 (samples, classes): when each sample was last trained on; their mean over the
# epochs; and, after training, of those that data.subset left out. NaN for a sample that there are none of.
LATEST, MEAN, OUT_OF_SAMPLE = "pred_probs.npy", "mean_probs.npy", "left_out_probs.npy"


# ---------------------------------------------------------------- writing, for the recorder


def write_labels(folder: Path, given: np.ndarray, true: np.ndarray) -> None:
    """given, true: int64 (samples,), in order of the sample index."""
    folder.mkdir(exist_ok=True)
    _write_table(folder / _LABELS, {"index": np.arange(len(given)), "given_label": given, "true_label": true})


def write_epoch(folder: Path, epoch: int, measures: np.ndarray) -> None:
    """measures: float32 (samples, len(MEASURES)); rows that were not seen become nulls, but for the column seen."""
    unseen = measures[:, MEASURES.index("seen")] == 0
    columns: dict[str, Any] = {"index": np.arange(len(measures)), "epoch": np.full(len(measures), epoch, np.int32)}
    for name, values in zip(MEASURES, measures.T, strict=True):
        typed = values.astype(bool) if name in _FLAGS else values
        columns[name] = pa.array(typed, mask=None if name == "seen" else unseen)
    _write_table(_epoch_file(folder, epoch), columns)


def write_probabilities(folder: Path, name: str, probabilities: np.ndarray) -> None:
    """name: LATEST, MEAN or OUT_OF_SAMPLE. probabilities: float32 (samples, classes)."""
    _write(folder / name, lambda file: np.save(file, probabilities))


def forget_from(folder: Path, epoch: int) -> None:
    """Delete the files of `epoch` and later ones, and those over all epochs."""
    for number, path in _epochs(folder):
        if number >= epoch:
            path.unlink()
    for name in (_SAMPLES, LATEST, MEAN, OUT_OF_SAMPLE):
        (folder / name).unlink(missing_ok=True)


def write_samples(run_dir: Path) -> pa.Table:
    """`per_sample`, written to samples.parquet too."""
    table = per_sample(run_dir)
    _write_table(run_dir / FOLDER / _SAMPLES, table)
    return table


# ---------------------------------------------------------------- reading


def read_probabilities(run_dir: Path, name: str) -> np.ndarray | None:
    """What `write_probabilities` wrote: float32 (samples, classes); None where the run has no such file."""
    path = run_dir / FOLDER / name
    try:
        found: np.ndarray = np.load(BytesIO(read_regular(path)), allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or train again") from error
    if found.ndim != 2 or found.dtype != np.float32:
        raise UserError(f"{path} does not hold what a run records there; restore it, or train again")
    return found


def per_sample(run_dir: Path | str) -> pa.Table:
    """What each training sample did over all epochs that are complete, one row each, in order of the sample index.

    index, given_label, true_label: int64. corrupted: bool, the labels differ. epochs_seen: int32, in how many epochs
    it was trained on (an incomplete last batch is dropped, and with it other samples in each epoch). The others are
    null for a sample that never was:

    first_learned_epoch: int32, the first epoch in which it was classified as labelled. And
        forgetting_count: int32, how often it was classified as labelled and the next time not. Both are null for a
        sample that was never classified as labelled: it comes after all others, in learning and as the most forgotten.
        (Toneva et al., "An empirical study of example forgetting during deep neural network learning", ICLR 2019,
        sections 3 and 4: a sample that was never learned is forgotten infinitely often.)
    aum: float64, mean over epochs of the margin, the given label's logit minus the largest other. (Pleiss et al.,
        "Identifying mislabeled data using the area under the margin ranking", NeurIPS 2020, section 3.1.)
    bounded_margin: float64 in [0, 1], mean over epochs of 1 / (1 + exp(-margin)), the given label's share of the
        probability that it and its strongest rival have together. In the area under the margin, the logits of a
        network that has memorised all drown what it said before; here an epoch counts no more than another.
    confidence, variability: float64, mean and standard deviation (of the population) over epochs of the given label's
        probability, in [0, 1] and [0, 0.5]. And correctness: float64 in [0, 1], the fraction of epochs in which it was
        classified as labelled. (Swayamdipta et al., "Dataset cartography", EMNLP 2020, section 2.)

    Raises UserError when the run recorded nothing, or a file is missing or damaged.
    """
    folder = Path(run_dir) / FOLDER
    if not (folder / _LABELS).is_file():
        raise UserError(f"{run_dir} holds no per-example dynamics; train with train.dynamics=true to record them")
    labels = _read(folder / _LABELS, _OF_LABELS)
    given, true = labels["given_label"], labels["true_label"]
    count, first, forgotten, hits = (np.zeros(len(given), np.int32) for _ in range(4))
    margins, bounded, confidence, squares = (np.zeros(len(given)) for _ in range(4))
    was_correct = np.zeros(len(given), bool)
    for epoch, measured in _complete_epochs(folder, run_dir, len(given)):
        seen = measured["seen"]
        correct = measured["correct_given"]
        first[seen & correct & (first == 0)] = epoch
        forgotten += seen & was_correct & ~correct
        was_correct = np.where(seen, correct, was_correct)
        count += seen
        hits += seen & correct
        margins += measured["margin"]
        bounded += np.where(seen, (1 + np.tanh(measured["margin"].astype(np.float64) / 2)) / 2, 0)
        # Welford: sums of squares would lose the deviation of a probability that hardly moves.
        away = np.where(seen, measured["probability"] - confidence, 0)
        confidence += away / np.maximum(count, 1)
        squares += away * (measured["probability"] - confidence)
    never, epochs = count == 0, np.maximum(count, 1)
    return pa.table(
        {
            "index": labels["index"],
            "given_label": given,
            "true_label": true,
            "corrupted": given != true,
            "epochs_seen": count,
            "first_learned_epoch": pa.array(first, mask=first == 0),
            "forgetting_count": pa.array(forgotten, mask=first == 0),
            "aum": pa.array(margins / epochs, mask=never),
            "bounded_margin": pa.array(bounded / epochs, mask=never),
            "confidence": pa.array(confidence, mask=never),
            "variability": pa.array(np.sqrt(squares / epochs), mask=never),
            "correctness": pa.array(hits / epochs, mask=never),
        }
    )


def separation(samples: pa.Table) -> dict[str, float | None]:
    """How well a low aum, confidence or correctness, a late first learning and much forgetting tell the corrupted
    samples from the clean ones.

    Returns the area under the ROC curve of each, in [0, 1], 0.5 for chance; None where one of the parts is empty.
    samples: of `per_sample`. A sample that was never learned counts as learned after all others, and forgotten most.
    """
    from sklearn.metrics import roc_auc_score  # a second to import, which training need not wait for

    samples = samples.filter(pc.greater(samples["epochs_seen"], 0))
    corrupted = samples["corrupted"].to_numpy()
    scores = {name: -samples[name].to_numpy() for name in ("aum", "confidence", "correctness")}
    for name in ("first_learned_epoch", "forgetting_count"):
        scores[name] = samples[name].fill_null(np.iinfo(np.int32).max).to_numpy()
    if corrupted.all() or not corrupted.any():
        return dict.fromkeys(scores)
    return {name: float(roc_auc_score(corrupted, score)) for name, score in scores.items()}


def has_dynamics(run_dir: Path) -> bool:
    """Whether a run recorded any."""
    return (run_dir / FOLDER / _LABELS).is_file()


def parts_compared(samples: pa.Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: each measure's median over the clean and the corrupted samples, and `separation`.

    samples: of `per_sample`.
    """
    parts = [samples.filter(pc.equal(samples["corrupted"], corrupted)) for corrupted in (False, True)]
    rows = [
        ["samples", *(f"{len(part):,}" for part in parts), ""],
        ["never learned", *(f"{part['first_learned_epoch'].null_count:,}" for part in parts), ""],
    ]
    areas = separation(samples)
    for name in ("first_learned_epoch", "forgetting_count", "aum", "confidence", "variability", "correctness"):
        area = areas.get(name)
        rows.append([name, *(_median(part[name]) for part in parts), "" if area is None else f"{area:.3f}"])
    return ["median of", "clean", "corrupted", "AUROC"], rows


def show(run_dir: Path) -> None:
    """Write samples.parquet, and compare the clean and the corrupted samples."""
    header, rows = parts_compared(write_samples(run_dir))
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console().print(table)
    print(f"one row per sample: {run_dir / FOLDER / _SAMPLES}")


def _median(column: pa.ChunkedArray) -> str:
    values = column.drop_null().to_numpy()
    return f"{np.median(values):.4g}" if len(values) else "-"


# ---------------------------------------------------------------- files


def _epoch_file(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:05d}.parquet"


def _epochs(folder: Path) -> list[tuple[int, Path]]:
    found = ((re.fullmatch(r"epoch-(\d{5,})\.parquet", path.name), path) for path in folder.glob("epoch-*.parquet"))
    return sorted((int(match[1]), path) for match, path in found if match)


def _complete_epochs(folder: Path, run_dir: Path | str, samples: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Epoch by epoch, the measures without nulls: zeros where seen is False."""
    epochs = _epochs(folder)
    if not epochs:
        raise UserError(f"{run_dir} has no epoch that is complete yet; wait for one, or continue it (run.resume=true)")
    for expected, (epoch, path) in enumerate(epochs, 1):
        if epoch != expected:
            raise UserError(f"{_epoch_file(folder, expected)} is missing, and later epochs are there; restore it")
        measured = _read(path, _OF_EPOCH)
        if len(measured["index"]) != samples or (measured["epoch"] != epoch).any():
            raise UserError(f"{path} is of another run or epoch; restore it, or train again")
        yield epoch, measured


def _read(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The columns `names`, as this module writes them."""
    try:
        table = pq.read_table(BytesIO(read_regular(path)))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or train again") from error
    right = table.schema.equals(pa.schema([(name, _TYPES[name]) for name in names]))
    if not (right and table["index"].null_count == 0 and np.array_equal(table["index"], np.arange(len(table)))):
        raise UserError(f"{path} does not hold what a run records there; restore it, or train again")
    filled = {name: table[name].fill_null(False if name in _FLAGS else 0) for name in table.column_names}
    return {name: column.to_numpy() for name, column in filled.items()}


def _write_table(path: Path, columns: pa.Table | dict[str, Any]) -> None:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    # Floats hardly repeat: dictionaries of them would cost time and save little space.
    repeating = [field.name for field in table.schema if not pa.types.is_floating(field.type)]
    _write(path, lambda file: pq.write_table(table, file, use_dictionary=repeating))


def _write(path: Path, write: Callable[[BinaryIO], None]) -> None:
    content = BytesIO()
    write(content)
    write_durably(path, content.getvalue())  # a checkpoint says that it is there
