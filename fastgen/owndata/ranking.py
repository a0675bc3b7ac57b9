"""Which labels look wrong: training samples in the order of what networks said of them."""

import csv
import importlib.util
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastgen.runs.dynamics import MEAN, OUT_OF_SAMPLE, per_sample, read_probabilities
from pipelines.errors import Note, UserError


@dataclass
class Evidence:
    """What is known of each training sample, by its index.

    given, true: labels, int64 (n,). aum, bounded_margin: those of `per_sample`, means over networks, float64 (n,), NaN
    where it was never trained on. probabilities: of all classes, float32 (n, classes), out of sample where networks
    left samples out, else the mean over the epochs of training; None where neither was recorded. out_of_sample: which
    it is.
    """

    given: np.ndarray
    true: np.ndarray
    aum: np.ndarray
    bounded_margin: np.ndarray
    probabilities: np.ndarray | None
    out_of_sample: bool

    @property
    def suggested(self) -> np.ndarray:
        """The most probable label, the given one where nothing is known: int64 (n,)."""
        if self.probabilities is None:
            return self.given
        known = ~np.isnan(self.probabilities).any(1)
        return np.where(known, np.nan_to_num(self.probabilities).argmax(1), self.given)

    def probability_of(self, labels: np.ndarray) -> np.ndarray:
        """float64 (n,), NaN where it is not known."""
        if self.probabilities is None:
            return np.full(len(labels), np.nan)
        return self.probabilities[np.arange(len(labels)), labels].astype(np.float64)

    @property
    def score(self) -> np.ndarray:
        """How right the given label looks, from 0: float64 (n,), NaN where nothing is known.

        The mean rank, as a fraction, by the bounded margin and by the given label's probability out of sample. In
        sample that says little more than the margin, which alone is taken then.
        """
        ranks = [_rank(self.bounded_margin)]
        if self.out_of_sample:
            ranks.append(_rank(self.probability_of(self.given)))
        count = np.sum([~np.isnan(rank) for rank in ranks], 0)
        total = np.nansum(ranks, 0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def order(self) -> np.ndarray:
        """Indices of the samples that something is known of, the most suspicious first."""
        order = np.lexsort((np.nan_to_num(self.bounded_margin), self.score))  # NaN comes last
        return order[: int((~np.isnan(self.score)).sum())]


def _rank(values: np.ndarray) -> np.ndarray:
    """From 0 for the lowest to 1; NaN stays."""
    known = np.flatnonzero(~np.isnan(values))
    ranks = np.full(len(values), np.nan)
    ranks[known[np.argsort(values[known], kind="stable")]] = np.arange(len(known)) / max(1, len(known) - 1)
    return ranks


def gather(runs: list[Path]) -> Evidence:
    """From runs that recorded dynamics, of the same samples and labels. Raises UserError where one has none."""
    tables = [per_sample(run) for run in runs]
    given, true = (tables[0][name].to_numpy() for name in ("given_label", "true_label"))
    for run, table in zip(runs, tables, strict=True):
        if not np.array_equal(table["given_label"].to_numpy(), given):
            raise UserError(f"{run} was trained on other labels than {runs[0]}; remove it, and run the command again")
    aum, bounded = (
        mean_of_known(np.stack([table[name].to_numpy(zero_copy_only=False).astype(np.float64) for table in tables]))
        for name in ("aum", "bounded_margin")
    )
    left_out = [found for run in runs if (found := read_probabilities(run, OUT_OF_SAMPLE)) is not None]
    inside = [found for run in runs if (found := read_probabilities(run, MEAN)) is not None]
    known = left_out or inside
    probabilities = mean_of_known(np.stack(known)) if known else None
    return Evidence(given, true, aum, bounded, probabilities, bool(left_out))


def mean_of_known(stacked: np.ndarray) -> np.ndarray:
    """Over the first axis, of what is known; NaN where nothing is."""
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0).sum(0)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = total / known.sum(0)
    return mean.astype(stacked.dtype)


def cleanlab_says(evidence: Evidence) -> dict[str, np.ndarray]:
    """cleanlab's quality of each label, in [0, 1], and whether it calls it an issue; nothing where it is missing."""
    if evidence.probabilities is None or importlib.util.find_spec("cleanlab") is None:
        return {}
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    known = np.flatnonzero(~np.isnan(evidence.probabilities).any(1))
    labels, probabilities = evidence.given[known], evidence.probabilities[known].astype(np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    quality, issue = np.full(len(evidence.given), np.nan), np.zeros(len(evidence.given), bool)
    try:
        quality[known] = get_label_quality_scores(labels, probabilities)
        issue[known] = find_label_issues(labels, probabilities, n_jobs=1)
    except ValueError as error:  # of too few samples of a class, say
        warnings.warn(f"cleanlab's scores are left out: {error}", Note, stacklevel=2)
        return {}
    return {"cleanlab_quality": quality, "cleanlab_issue": issue}


def as_csv(evidence: Evidence, names: list[str], sample_names: list[str] | None) -> str:
    """A line for each sample, the most suspicious first. names: of the classes. sample_names: files, or None."""
    suggested, score = evidence.suggested, evidence.score
    columns = {
        "bounded_margin": evidence.bounded_margin,
        "aum": evidence.aum,
        "probability_of_given": evidence.probability_of(evidence.given),
        "probability_of_suggested": evidence.probability_of(suggested),
        **cleanlab_says(evidence),
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["rank", "index", "sample", "given_label", "suggested_label", "score", *columns])
    for rank, index in enumerate(evidence.order().tolist(), 1):
        sample = sample_names[index] if sample_names else ""
        numbers = [score[index], *(values[index] for values in columns.values())]
        cells = [value if isinstance(value, np.bool_) else f"{value:.6g}" for value in numbers]
        writer.writerow([rank, index, sample, names[evidence.given[index]], names[suggested[index]], *cells])
    return out.getvalue()


def found_at(evidence: Evidence) -> tuple[int, float] | None:
    """How many labels were corrupted on purpose, and which percentage of as many suspects are among them; None where
    none were. So many suspects have the same precision and recall."""
    wrong = evidence.given != evidence.true
    planted = int(wrong.sum())
    return (planted, 100.0 * float(wrong[evidence.order()[:planted]].sum()) / planted) if planted else None
