"""Memorization and consistency of every training sample, from networks that were trained on random subsets of them.

Feldman and Zhang, "What neural networks memorize and why", NeurIPS 2020 (arXiv 2008.03703), section 2; Jiang, Zhang,
Talwar and Mozer, "Characterizing structural regularities of labeled data in overparameterized models", ICML 2021
(arXiv 2002.03206), section 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Memorization:
    """Of each training sample: all of shape (n,).

    value: float64 in [-1, 1], P(correct | in) - P(correct | out): how much likelier a network gives the sample its
    given label when it was trained on it; NaN where no network has it in, or none has it out. inside, outside: int64,
    how many networks were trained with it and without it. accuracy_inside, accuracy_outside: float64 in [0, 1], the two
    probabilities (NaN: no network). error: float64, the value's standard error (`standard_error`).
    """

    value: np.ndarray
    error: np.ndarray
    inside: np.ndarray
    outside: np.ndarray
    accuracy_inside: np.ndarray
    accuracy_outside: np.ndarray


def memorization(member: np.ndarray, correct: np.ndarray) -> Memorization:
    """member, correct: bool (networks, n): was network t trained on sample i, does it give it its given label?"""
    inside, outside = member.sum(0), (~member).sum(0)
    hits_inside, hits_outside = (member & correct).sum(0), (~member & correct).sum(0)
    accuracy_inside, accuracy_outside = _share(hits_inside, inside), _share(hits_outside, outside)
    error = standard_error(hits_inside, inside, hits_outside, outside)
    value = accuracy_inside - accuracy_outside
    return Memorization(value, error, inside, outside, accuracy_inside, accuracy_outside)


def consistency(by_fraction: Mapping[float, Memorization]) -> np.ndarray:
    """The C-score of each training sample: float64 (n,) in [0, 1], the mean over the fractions of the accuracy of
    networks that were not trained on it; NaN where there is none at some fraction."""
    return np.mean([found.accuracy_outside for found in by_fraction.values()], axis=0)


def margin_outside(member: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """The mean margin of each sample's given label in networks that were not trained on it: float64 (n,), NaN where
    there is none. It tells apart the many samples that no network gets right unless it was trained on them.

    member: bool (networks, n). margin: float16 (networks, n).
    """
    total = np.zeros(member.shape[1])
    for trained, margins in zip(member, margin, strict=True):
        total += np.where(trained, 0, margins.astype(np.float64))
    return _share(total, (~member).sum(0))


def standard_error(
    hits_inside: np.ndarray, inside: np.ndarray, hits_outside: np.ndarray, outside: np.ndarray
) -> np.ndarray:
    """Of a difference of two shares, hits_inside / inside - hits_outside / outside: float64, NaN where one has nobody.

    Agresti and Caffo, "Simple and effective confidence intervals for proportions and differences of proportions", The
    American Statistician 54 (2000): as if each side had one more hit and one more miss. Else two networks that agree
    would be taken for certainty.
    """
    variance = np.zeros(np.broadcast(hits_inside, hits_outside).shape)
    for hits, count in ((hits_inside, inside), (hits_outside, outside)):
        share = (hits + 1) / (count + 2)
        variance = variance + np.where(count > 0, share * (1 - share) / (count + 2), np.nan)
    return np.sqrt(variance)


def _share(hits: np.ndarray, count: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(hits, count, out=np.full(hits.shape, np.nan), where=count > 0)
    return shares


def convergence(member: np.ndarray, correct: np.ndarray, networks: list[int]) -> list[tuple[int, float]]:
    """How well two halves of the first k networks agree: (k, Spearman's correlation over samples of the memorization
    that each half of them estimates), for each k of `networks` that leaves enough to compare.

    The k networks together agree better with as many others than their halves do with each other.
    """
    from scipy.stats import spearmanr  # a second to import

    found = []
    for count in networks:
        first, second = (memorization(member[half:count:2], correct[half:count:2]).value for half in (0, 1))
        known = ~np.isnan(first + second)
        if known.sum() > 2 and min(np.ptp(first[known]), np.ptp(second[known])) > 0:
            found.append((count, float(spearmanr(first[known], second[known]).statistic)))
    return found
