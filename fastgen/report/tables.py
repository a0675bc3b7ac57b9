"""Tables that compare runs and describe them."""

from dataclasses import fields
from typing import Any

from fastgen.report.spread import mean_and_deviation
from fastgen.report.variation import FOLDER, SEEDS, Variation
from fastgen.runs.run import Run
from fastgen.runs.summary import Evaluation

Table = tuple[list[str], list[list[str]]]  # header, rows

_RESULTS = {
    "epochs": "epochs",
    "fitted_epoch": "fitted at epoch",
    "train_top1": "training (%)",
    "train_top1_clean_part": "clean part (%)",
    "train_top1_corrupted_part": "corrupted part (%)",
    "rademacher_complexity": "complexity",
    "test_top1": "test (%)",
    "best_test_top1": "best test (%)",
    "train_top1_true_labels": "training, true labels (%)",
    "images_per_second": "images/s",
    "minutes": "minutes",
}
_OVER_SEEDS = (
    "fitted_epoch", "train_top1", "train_top1_clean_part", "train_top1_corrupted_part", "rademacher_complexity",
    "test_top1", "best_test_top1",
)  # fmt: skip
_NOTHING = "-"
_EVALUATED = {item.name for item in fields(Evaluation)} | {"best_test_top1"}


def results(variation: Variation) -> Table:
    """A row for each run: what varies, how it ended, and its results; of one that has not, as of its last evaluation.

    Columns in which no run has anything are left out.
    """
    keys = [key for key in _RESULTS if any(_cell(run, key) != _NOTHING for run in variation.runs)]
    return [*variation.keys, "state", *(_RESULTS[key] for key in keys)], [
        [*(variation.written(run, key) for key in variation.keys), run.state, *(_cell(run, key) for key in keys)]
        for run in variation.runs
    ]


def over_seeds(variation: Variation) -> Table | None:
    """Mean and standard deviation over finished runs that differ in their seeds alone; None where there are none."""
    groups = [runs for runs in variation.by_setting().values() if len(runs) > 1]
    if not any(run.finished for runs in groups for run in runs):
        return None
    ended = [[run for run in runs if run.finished] for runs in groups]
    keys = [key for key in _OVER_SEEDS if any(_of(run, key) is not None for runs in ended for run in runs)]
    settings = [key for key in variation.keys if key not in (*SEEDS, FOLDER)] or ["recipe"]
    rows = [
        [
            *(variation.written(runs[0], key) for key in settings),
            str(len(runs)) if len(done) == len(runs) else f"{len(done)} of {len(runs)} finished",
            *(_spread(done, key) for key in keys),
        ]
        for runs, done in zip(groups, ended, strict=True)
    ]
    return [*settings, "runs", *(_RESULTS[key] for key in keys)], rows


def data_of(run: Run) -> Table:
    """The data that a run was trained on, from its manifest."""
    specification, split = run.manifest.specification, run.manifest.splits["train"]
    column = split.columns.get(run.label_column or "")
    share = "unknown" if column is None else f"{column.changed:,} ({100 * column.changed / split.samples:.1f} %)"
    return ["source", "training samples", "classes", "pixels", "encoding", "labels", "labels changed", "manifest"], [
        [
            specification["source"]["source"],
            f"{split.samples:,}",
            str(run.labels.classes(run.manifest.num_classes)),
            specification["pixels"]["kind"],
            specification["image"]["encoding"],
            run.label_column or f"{run.labels.file or run.labels.column}, which is not there any more",
            "signs in place of classes" if run.labels.signs else share,
            run.summary.manifest_sha256[:12] if run.summary else "-",
        ]
    ]


def _of(run: Run, key: str) -> Any:
    if key in _EVALUATED:
        return run.measured(key)
    summary = run.summary
    if summary is not None:
        return summary.wall_seconds / 60 if key == "minutes" else getattr(summary, key)
    logged = {"epochs": "epoch", "images_per_second": "images_per_second", "minutes": "wall_seconds"}.get(key)
    line = run.last_line(logged) if logged else None
    return None if line is None or logged is None else line[logged] / (60 if key == "minutes" else 1)


def _cell(run: Run, key: str) -> str:
    value = _of(run, key)
    if value is None:
        return "never" if key == "fitted_epoch" and run.finished else _NOTHING
    if key == "images_per_second":
        return f"{value:,.0f}"
    text = f"{value:,.2f}"
    return text.rstrip("0").rstrip(".") if key in ("epochs", "fitted_epoch") else text


def _spread(runs: list[Run], key: str) -> str:
    values = [value for run in runs if (value := _of(run, key)) is not None]
    never = len(runs) - len(values) if key == "fitted_epoch" else 0
    if never:
        return f"{mean_and_deviation(values)} ({never} never)" if values else "never"
    return mean_and_deviation(values)
