"""The page about memorization: one HTML file that needs no network."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fastgen.memorization.estimates import Memorization, convergence
from fastgen.memorization.influence import Pairs, top_pairs
from fastgen.memorization.networks import Said
from fastgen.report.page import Page
from fastgen.report.plots import against_networks, histograms
from fastgen.sets import contact_sheet
from pipelines.baked.beton import Beton
from pipelines.baked.shards import Shards

_SHEET = 32  # images
_MOVED, _BY = 10, 7  # test samples on the sheet of influences, and training samples beside each
_MEMORISED, _INFLUENTIAL = 0.25, 0.15  # Feldman and Zhang's thresholds of memorization and influence (section 3)
_STEPS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # networks


@dataclass(frozen=True)
class Images:
    """Of a split, by sample index. stored: the baked file. names: of the classes. given, true: int64 (n,). files: of
    the samples, where they are known."""

    stored: Beton | Shards
    names: list[str]
    given: np.ndarray
    true: np.ndarray
    files: list[str] | None = None

    @staticmethod
    def of(stored: Beton | Shards, names: list[str], column: str, files: list[str] | None = None) -> "Images":
        rows = np.argsort(stored.columns["index"])
        given, true = (stored.columns[name][rows].astype(np.int64) for name in (column, "clean_label"))
        return Images(stored, names, given, true, files)

    def __getitem__(self, index: int) -> np.ndarray:
        (row,) = np.flatnonzero(self.stored.columns["index"] == index)
        image: np.ndarray = self.stored.image(int(row))
        return image


@dataclass(frozen=True)
class Shown:
    """What the page is made of, and what is logged: numbers by name (None: there is none), figures and sheets with
    their captions; tables, as header and rows."""

    numbers: dict[str, float | None]
    figures: dict[str, tuple[Figure, str]]
    sheets: dict[str, tuple[Image.Image, str]]
    tables: list[tuple[list[str], list[list[str]]]] = field(default_factory=list)

    def onto(self, page: Page) -> None:
        page.table(["", ""], [[name, _text(value)] for name, value in self.numbers.items()])
        for name, (figure, caption) in self.figures.items():
            page.figure(name, figure, caption)
        for sheet, caption in self.sheets.values():
            page.image(sheet, caption)
        for header, rows in self.tables:
            page.table(header, rows)


def shown(train: Images, test: Images | None, said: Said, found: Memorization, margin: np.ndarray) -> Shown:
    """All but the removal experiment. test: None without a test split. margin: `margin_outside`."""
    corrupted, known = train.given != train.true, ~np.isnan(found.value)
    parts = {"clean": known & ~corrupted, "corrupted": known & corrupted}
    numbers: dict[str, float | None] = {
        "networks": len(said.member),
        "training samples": len(known),
        "of them not known": int((~known).sum()),
        f"memorised ({_MEMORISED} or more)": int((found.value[known] >= _MEMORISED).sum()),
        "mean standard error": float(found.error[known].mean()) if known.any() else None,
    }
    for name, part in parts.items():
        numbers[f"mean memorization, {name} labels"] = float(found.value[part].mean()) if part.any() else None
    numbers["area under the ROC curve, corrupted against clean"] = _area(found.value[known], corrupted[known])
    numbers["the same of a low margin without the sample"] = _area(-margin[known], corrupted[known])
    histogram = histograms({name: found.value[part] for name, part in parts.items() if part.any()}, "memorization")
    steps = [*(step for step in _STEPS if step < len(said.member)), len(said.member)]
    agreement = convergence(said.member, said.correct, steps)
    numbers["two halves of the networks agree (Spearman)"] = agreement[-1][1] if agreement else None
    figures = {
        "histogram": (histogram, "Training samples by memorization: how much likelier a network gives a sample its "
                      "label when it was trained on it"),
        "convergence": (against_networks(agreement), "Two halves of the networks, each estimating alone: Spearman's "
                        "correlation over samples. All networks together are surer than their halves; stop where it "
                        "no longer grows"),
    }  # fmt: skip
    # Of the many that are memorised equally, those whose label the others speak most against come first.
    order = np.lexsort((margin, np.where(known, -found.value, np.inf)))[: known.sum()]
    sheets = {
        "most memorised": (_sheet(train, order[:_SHEET], found), _MEMORISED_CAPTION),
        "least memorised": (_sheet(train, order[::-1][:_SHEET], found), "The least memorised training samples"),
    }  # fmt: skip
    memorised = np.flatnonzero(np.nan_to_num(found.value) >= _MEMORISED)
    if test is not None and len(memorised):
        pairs = top_pairs(said.member[:, memorised], said.correct_test, _BY)
        moved = Pairs(memorised[pairs.train], pairs.influence, pairs.error)
        numbers[f"test samples moved by {_INFLUENTIAL} or more by a memorised one"] = int(
            (moved.influence[:, 0] >= _INFLUENTIAL).sum()
        )
        numbers["largest influence to be expected by chance"] = _by_chance(moved, len(memorised))
        sheets["influence"] = (_influences(train, test, moved), _INFLUENCE_CAPTION)
    return Shown(numbers, figures, sheets, [_most_memorised(train, order[:_SHEET], found, margin)])


_MEMORISED_CAPTION = (
    "The most memorised training samples: true label and memorization, and the given label, red where it is another "
    "one. Of equal ones first those whose given label networks without them speak most against"
)
_INFLUENCE_CAPTION = (
    f"The test samples that training samples memorised by {_MEMORISED} or more moved most (first in each row), and the "
    "training samples that moved them: label, and influence with its standard error, red where the label is wrong. The "
    "largest of so many estimates is large by chance, too: the table says how large."
)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _area(value: np.ndarray, corrupted: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score  # a second to import

    if corrupted.all() or not corrupted.any():
        return None
    return float(roc_auc_score(corrupted, value))


def _by_chance(moved: Pairs, samples: int) -> float:
    """About the largest of as many estimates of nothing, with the usual standard error."""
    return float(np.median(moved.error) * np.sqrt(2 * np.log(samples)))


def _most_memorised(
    train: Images, indices: np.ndarray, found: Memorization, margin: np.ndarray
) -> tuple[list[str], list[list[str]]]:
    """The sheet's samples as a table, so that they can be found."""
    header = ["most memorised", "given label", "true label", "memorization", "standard error", "margin without it"]
    rows = [
        [
            train.files[index] if train.files else f"sample {index}",
            train.names[train.given[index]],
            train.names[train.true[index]],
            *(f"{values[index]:.2f}" for values in (found.value, found.error, margin)),
        ]
        for index in indices.tolist()
    ]
    return header, rows


def _sheet(images: Images, indices: np.ndarray, found: Memorization) -> Image.Image:
    return contact_sheet(
        [
            (
                images[index],
                f"{images.names[images.true[index]][:10]} {found.value[index]:.2f}",
                images.names[images.given[index]],
                bool(images.given[index] != images.true[index]),
            )
            for index in indices.tolist()
        ]
    )


def _influences(train: Images, test: Images, moved: Pairs) -> Image.Image:
    cells = []
    for index in np.argsort(moved.error[:, 0] - moved.influence[:, 0], kind="stable")[:_MOVED].tolist():
        cells.append((test[index], test.names[test.true[index]], f"test {index}", False))
        for i, influence, error in zip(moved.train[index], moved.influence[index], moved.error[index], strict=True):
            given = train.given[i]
            wrong = bool(given != train.true[i])
            cells.append((train[i], train.names[given], f"{influence:.2f} +-{error:.2f}", wrong))
        blank = np.full((8, 8, 3), 255, np.uint8)
        cells += [(blank, "", "", False)] * (-len(cells) % (1 + _BY))
    return contact_sheet(cells)
