"""Order, shards and offset: every sample exactly once, for any number of processes, from any position."""

import numpy as np
import pytest

from pipelines.errors import UserError
from pipelines.sampler import Sampler, SubsetSpec


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("samples", [1003, 24, 25])
def test_each_sample_once_over_all_processes(world_size, shuffle, samples):
    ranks = [Sampler(samples, 24, 0, shuffle, rank, world_size) for rank in range(world_size)]
    seen = np.concatenate([np.concatenate([np.empty(0, int), *r.batches()]) for r in ranks])
    assert len(set(seen.tolist())) == len(seen)
    assert len(seen) == (samples // 24 * 24 if shuffle else samples)


@pytest.mark.parametrize("world_size, micro", [(2, 1), (4, 2), (1, 3)])
def test_global_batches_do_not_depend_on_the_processes(world_size, micro):
    alone = Sampler(1000, 24, seed=1).batches()
    parts = [Sampler(1000, 24, 1, True, r, world_size, micro).batches() for r in range(world_size)]
    for step, whole in enumerate(alone):
        pieces = [parts[r][step * micro + m] for m in range(micro) for r in range(world_size)]
        assert np.array_equal(np.concatenate(pieces), whole)
        assert len({len(p) for p in pieces}) == 1


def test_orders_are_independent_across_seeds_and_epochs():
    orders = {tuple(Sampler(100, 10, seed).order(epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400
    assert np.array_equal(Sampler(100, 10, 3).order(7), Sampler(100, 10, 3).order(7))


def test_resume_at_every_step():
    whole = Sampler(103, 10, seed=2, epoch=4).batches()
    for step in range(len(whole) + 1):
        tail = Sampler(103, 10, seed=2, epoch=4, offset=10 * step).batches()
        assert len(tail) == len(whole) - step
        assert all(np.array_equal(a, b) for a, b in zip(tail, whole[step:], strict=True))


def test_errors():
    with pytest.raises(UserError, match="multiple of 3"):
        Sampler(100, 10, world_size=3)
    with pytest.raises(UserError, match="at most 100"):
        Sampler(100, 128)
    with pytest.raises(UserError, match="empty"):
        Sampler(0, 1)
    with pytest.raises(UserError, match="rank 2"):
        Sampler(100, 10, rank=2, world_size=2)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_some_rows_alone(world_size, shuffle):
    """Those rows, each once, in the order of a set of that size; the tail is dropped as ever."""
    rows = np.flatnonzero(np.arange(200) % 3)
    ranks = [Sampler(len(rows), 24, 1, shuffle, r, world_size, rows=rows) for r in range(world_size)]
    whole = [Sampler(len(rows), 24, 1, shuffle, r, world_size) for r in range(world_size)]
    for mine, all_of_them in zip(ranks, whole, strict=True):
        assert mine.steps_per_epoch == len(mine.batches()) == (5 if shuffle else 6)
        assert all(np.array_equal(a, rows[b]) for a, b in zip(mine.batches(), all_of_them.batches(), strict=True))


@pytest.mark.parametrize("folds", [2, 4, 7])
def test_folds_share_out_each_class(folds):
    labels = np.random.default_rng(0).integers(0, 5, 103)
    left_out = np.stack([~SubsetSpec(folds, fold).members(labels) for fold in range(folds)])
    assert (left_out.sum(0) == 1).all()
    for part in (left_out.sum(1), *(left_out[:, labels == label].sum(1) for label in range(5))):
        assert part.max() - part.min() <= 1
    again = np.stack([~SubsetSpec(folds, fold).members(labels) for fold in range(folds)])
    other = np.stack([~SubsetSpec(folds, fold, seed=1).members(labels) for fold in range(folds)])
    assert np.array_equal(left_out, again) and not np.array_equal(left_out, other)
    assert SubsetSpec().members(labels) is None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (SubsetSpec(1), "data.subset.folds=1 must be at least 2"),
        (SubsetSpec(4, 4), "data.subset.fold=4 is no part of 4 from 0"),
        (SubsetSpec(4, -1), "data.subset.fold=-1 is no part of 4 from 0"),
        (SubsetSpec(None, 1), "data.subset.fold=1 is no part without data.subset.folds"),
        (SubsetSpec(12, 0), r"data.subset.folds=12 is more than there are training samples \(10\)"),
    ],
)
def test_folds_that_cannot_be(spec, text):
    with pytest.raises(UserError, match=text):
        spec.validate()
        spec.members(np.zeros(10, np.int64))
