"""Influence of every training sample on every test sample, in blocks: the whole matrix is never in memory.

The same difference as memorization (Feldman and Zhang, section 2): how much likelier a network gives test sample j its
label when it was trained on sample i. How often i was in and j was right is a product of matrices of zeros and ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgen.memorization.estimates import standard_error
from pipelines.durable import aside, sync, sync_folder

_BLOCK_BYTES = 1 << 26  # of a block of influences in float32


@dataclass(frozen=True)
class Pairs:
    """The training samples with the largest influence on each test sample, the largest first, (m, top) each.

    train: int64, their sample indices. influence: float32 in [-1, 1], NaN where no more is known; error: float64, its
    standard error.
    """

    train: np.ndarray
    influence: np.ndarray
    error: np.ndarray


def influence_blocks(
    member: np.ndarray, correct: np.ndarray, tests: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of test samples, and the influence of all training samples on them: float32 (n, block), NaN for training
    samples that no network has in, or none has out.

    member: bool (networks, n). correct: bool (networks, m), does network t give test sample j its label? tests: in a
    block (None: as many as make 64 MiB).
    """
    n, m = member.shape[1], correct.shape[1]
    trained = np.ascontiguousarray(member.T, np.float32)  # counts of networks are exact in float32
    inside = trained.sum(1, keepdims=True)
    outside = len(member) - inside
    inside[(inside == 0) | (outside == 0)] = np.nan
    tests = tests or max(1, _BLOCK_BYTES // (4 * n))
    for start in range(0, m, tests):
        block = slice(start, min(m, start + tests))
        right = correct[:, block].astype(np.float32)
        hits = trained @ right
        # Where nobody is out, the first term is NaN already.
        yield block, hits / inside - (right.sum(0) - hits) / np.maximum(outside, 1)


def top_pairs(
    member: np.ndarray, correct: np.ndarray, top: int, matrix: Path | None = None, tests: int | None = None
) -> Pairs:
    """The `top` most influential training samples of each test sample; of equal ones those with the lowest index.

    member, correct, tests: as of `influence_blocks`. matrix: where the whole of it is written, a .npy of float16 (n, m)
    that lies test sample by test sample (numpy.load(path, mmap_mode="r") reads a part of it).
    """
    n, m = member.shape[1], correct.shape[1]
    top = min(top, n)
    train, influence = np.zeros((m, top), np.int64), np.full((m, top), np.nan, np.float32)
    whole = None
    if matrix is not None:
        whole = np.lib.format.open_memmap(aside(matrix), "w+", np.float16, (n, m), fortran_order=True)
    for block, values in influence_blocks(member, correct, tests):
        if whole is not None:
            whole[:, block] = values
        for column, test in zip(np.nan_to_num(values.T, nan=-np.inf), range(block.start, block.stop), strict=True):
            train[test] = _largest(column, top)
            influence[test] = values[train[test], test - block.start]
    if matrix is not None:
        assert whole is not None
        whole.flush()
        del whole
        with open(aside(matrix), "rb+") as file:
            sync(file)
        aside(matrix).replace(matrix)
        sync_folder(matrix.parent)
    return Pairs(train, influence, _errors(member, correct, train))


def _largest(values: np.ndarray, top: int) -> np.ndarray:
    """Where the `top` largest values are, the largest first, of equal ones the first."""
    least = np.partition(values, len(values) - top)[len(values) - top]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    chosen = np.concatenate([above, equal[: top - len(above)]])
    ordered: np.ndarray = chosen[np.argsort(-values[chosen], kind="stable")]
    return ordered


def _errors(member: np.ndarray, correct: np.ndarray, train: np.ndarray) -> np.ndarray:
    errors = np.empty(train.shape)
    for test, rows in enumerate(train):
        trained, right = member[:, rows], correct[:, test, None]
        counts = trained.sum(0), (~trained).sum(0)
        errors[test] = standard_error((trained & right).sum(0), counts[0], (~trained & right).sum(0), counts[1])
    return errors
