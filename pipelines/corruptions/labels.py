"""Label corruptions (section 2.1 of the paper, and the noise models that came after it).

Two uniforms belong to each sample: the first decides whether it is corrupted (below p), the second to which
class. Neither depends on p, so the levels nest: a sample corrupted at p=0.2 is corrupted to the same class at
p=0.4.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.corruptions.published import check_published, published_file
from pipelines.corruptions.tables import KINDS, read_labels
from pipelines.durable import read_regular
from pipelines.errors import UserError
from pipelines.randomness import uniforms_of
from pipelines.registry import Registry


@dataclass
class LabelSpec:
    """One labelling of the training set (data.labels.*).

    kind: true; random (every label drawn anew; `p` below 1 makes it partial); partial; symmetric; pair; table;
    rademacher (a fair sign for each sample in place of its class: 0 for -1, 1 for +1).
    p: the probability of corrupting a sample. table: file and column of given labels, of which those of people that
    are published have names (`pipelines.corruptions.published`) and need no file.
    """

    kind: str = "true"
    p: float | None = None
    seed: int = 0  # of which samples are corrupted, and to which class
    file: str | None = None  # with kind=table: the file of the given labels (None: CIFAR-10N's or CIFAR-100N's)
    column: str | None = None  # with kind=table: its column (None: the only one)
    name: str | None = None  # another word for column, as worse_label of CIFAR-10N, noisy_label of CIFAR-100N

    def resolved(self) -> "LabelSpec":
        """With the level filled in and one spelling for each labelling. Raises UserError on a contradiction."""
        kind, p = LABELS[self.kind], self.p
        if p is not None and not 0 <= p <= 1:
            raise UserError(f"data.labels.p={p} must be a fraction from 0 to 1")
        if kind.level == "none" and p is not None:
            raise UserError(
                f"data.labels.p={p} has no effect with data.labels.kind={self.kind}; "
                "leave it out, or set data.labels.kind=partial"
            )
        if kind.level == "needed" and p is None:
            raise UserError(f"data.labels.kind={self.kind} needs data.labels.p, a fraction from 0 to 1")
        column = self.name if self.column is None else self.column
        if self.name not in (None, column):
            raise UserError(
                f"data.labels.name={self.name} and data.labels.column={column} name two columns; leave one out"
            )
        if not kind.from_file and self.file is not None:
            raise UserError(f"data.labels.kind=table and data.labels.file=PATH ({KINDS}) go together")
        if not kind.from_file and column is not None:
            key = "column" if self.name is None else "name"
            raise UserError(f"data.labels.{key} is only used with data.labels.kind=table")
        if kind.from_file and self.file is None:
            check_published(column)
        if kind.level != "none":
            p = 1.0 if p is None else float(p)
        return LabelSpec(kind.same_as or self.kind, p, self.seed if kind.seeded else 0, self.file, column)

    @property
    def table(self) -> str:
        """The file of the given labels. Raises UserError for one that is published and was not found."""
        if self.file is not None:
            return self.file
        column = self.resolved().column
        assert column is not None, "resolved has seen to it"
        return str(published_file(column))

    @property
    def signs(self) -> bool:
        """Whether the labels are signs and not classes, so that there is no true one among them."""
        return LABELS[self.kind].signs

    def classes(self, num_classes: int) -> int:
        """How many different labels there are, for a set of `num_classes`."""
        return 2 if self.signs else num_classes

    @functools.cached_property
    def column_name(self) -> str:
        """The field in the .beton that holds this labelling: at most 16 bytes, the same for equal labellings.

        Raises UserError on a contradiction, and for a table that does not exist. A table is read once for each spec.
        """
        spec = self.resolved()
        kind = LABELS[spec.kind]
        if not kind.from_file:
            level = "" if spec.p is None else f"{spec.p:g}_"
            name = f"{spec.kind}_{level}s{spec.seed}" if kind.seeded or level else f"label_{spec.kind}"
            # "%g" keeps six digits: only a level that it shows whole may go by its digits.
            if len(name.encode()) <= 16 and (spec.p is None or float(f"{spec.p:g}") == spec.p):
                return name
            described = {key: value for key, value in asdict(spec).items() if key != "name"}
            return "label_" + hashlib.sha256(repr(described).encode()).hexdigest()[:10]
        file = spec.table
        path = Path(os.path.expanduser(file))  # Path's own raises for an unknown user
        if not path.is_file():
            raise UserError(f"data.labels.file={file} does not exist, or is no file")
        try:  # the file's contents, not its place, say which labelling it is
            content = read_regular(path) + repr(spec.column).encode()
        except OSError as error:
            raise UserError(f"data.labels.file={file} cannot be read: {error.strerror}") from error
        return "table_" + hashlib.sha256(content).hexdigest()[:10]


Corruption = Callable[[LabelSpec, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class LabelKind:
    """A corruption of labels, and which settings it has.

    corrupt: (resolved spec, true labels int64 (n,), number of classes) -> given labels int64 (n,); None: they are read
    from data.labels.file. level: whether it needs data.labels.p, may have it (1 unless given) or has none. seeded:
    whether it reads data.labels.seed. signs: whether its labels are 0 and 1 whatever the classes are. same_as: the kind
    that makes the same labelling from the same settings, and names its column.
    """

    corrupt: Corruption | None
    level: Literal["needed", "optional", "none"] = "needed"
    seeded: bool = True
    signs: bool = False
    same_as: str | None = None

    @property
    def from_file(self) -> bool:
        return self.corrupt is None


LABELS: Registry[LabelKind] = Registry("data.labels.kind")


def corrupt_labels(
    spec: LabelSpec, labels: np.ndarray, num_classes: int, total: int | None = None, positions: np.ndarray | None = None
) -> np.ndarray:
    """The labelling of a training set.

    labels: the true labels, int64 (n,) in [0, num_classes), sample index = position. total: how many samples there are
    without data.limit and data.holdout (None: n); a table may label them all, and positions are the numbers of these
    samples in it, int64 (n,) (None: the first n). Returns int64 (n,), in [0, num_classes), of signs in
    [0, 2).
    """
    spec = spec.resolved()
    corrupt = LABELS[spec.kind].corrupt
    if corrupt is None:
        given = read_labels(spec.table, spec.column, labels, num_classes, total or len(labels), positions)
    else:
        given = corrupt(spec, labels, num_classes)
    assert given.shape == labels.shape and given.dtype == np.int64
    return given


def _draws(spec: LabelSpec, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Which samples are corrupted, bool (n,), and their second uniform, float64 (n,) in [0, 1)."""
    uniforms = uniforms_of(np.arange(n), spec.seed, f"labels/{spec.kind}")
    return uniforms[:, 0] < (1.0 if spec.p is None else spec.p), uniforms[:, 1]


def _true(spec: LabelSpec, labels: np.ndarray, num_classes: int) -> np.ndarray:
    return labels.copy()


def _random(spec: LabelSpec, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """A class drawn from ALL classes, so a fraction p(k-1)/k of the labels changes (paper, section 2.1)."""
    corrupted, choice = _draws(spec, len(labels))
    return np.where(corrupted, (choice * num_classes).astype(np.int64), labels)


def _symmetric(spec: LabelSpec, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """One of the other classes, each with the same probability: a fraction p of the labels changes."""
    _need_two_classes(spec, num_classes)
    corrupted, choice = _draws(spec, len(labels))
    other = (labels + 1 + (choice * (num_classes - 1)).astype(np.int64)) % num_classes
    return np.where(corrupted, other, labels)


def _pair(spec: LabelSpec, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The next class (Han et al., "Co-teaching", 2018): a fraction p of the labels changes."""
    _need_two_classes(spec, num_classes)
    corrupted, _ = _draws(spec, len(labels))
    return np.where(corrupted, (labels + 1) % num_classes, labels)


def _rademacher(spec: LabelSpec, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The signs of the empirical Rademacher complexity (paper, section 2.2), as 0 and 1."""
    return (_draws(spec, len(labels))[1] < 0.5).astype(np.int64)


def _need_two_classes(spec: LabelSpec, num_classes: int) -> None:
    if num_classes < 2:
        raise UserError(f"data.labels.kind={spec.kind} changes the class, and this set has only one")


LABELS.add("true", LabelKind(_true, level="none", seeded=False))
LABELS.add("random", LabelKind(_random, level="optional"))
LABELS.add("partial", LabelKind(_random, same_as="random"))
LABELS.add("symmetric", LabelKind(_symmetric))
LABELS.add("pair", LabelKind(_pair))
LABELS.add("rademacher", LabelKind(_rademacher, level="none", signs=True))
LABELS.add("table", LabelKind(None, level="none", seeded=False))
