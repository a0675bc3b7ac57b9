"""Tables that compare runs and describe them."""

import json
from typing import Any

from fastgen.report.spread import mean_and_deviation
from fastgen.runs.run import MACHINE_KEYS, Run

Table = tuple[list[str], list[list[str]]]  # header, rows

_SUMMARY = {
    "epochs": "epochs",
    "train_top1": "training (%)",
    "train_top1_clean_part": "clean part",
    "train_top1_corrupted_part": "corrupted part",
    "train_top1_true_labels": "against true labels",
    "rademacher_complexity": "complexity",
    "test_top1": "test (%)",
    "best_test_top1": "best test",
    "fitted_epoch": "fitted at epoch",
    "images_per_second": "images/s",
}
_OF_SIGNS = ("rademacher_complexity",)  # the keys of _SUMMARY that make a column only where some run has them
_SEEDS = ("seed", "data.labels.seed", "data.pixels.seed")


def names(runs: list[Run]) -> list[str]:
    """Folder names, each with the fewest of its parents that tell them apart."""
    for parts in range(1, 5):
        found = ["/".join(run.folder.resolve().parts[-parts:]) for run in runs]
        if len(set(found)) == len(found):
            return found
    return [str(run.folder) for run in runs]


def title(runs: list[Run]) -> str:
    return "Runs: " + ", ".join(sorted({run.settings["recipe"] for run in runs}))


def results(runs: list[Run]) -> Table:
    """A row for each run: its settings and its results."""
    keys = [key for key in _SUMMARY if key not in _OF_SIGNS or any(_of(run, key) is not None for run in runs)]
    header = ["run", "labels", "model", "seed", "state", *(_SUMMARY[key] for key in keys), "minutes"]
    return header, [
        [
            name,
            run.labels.column_name,
            run.settings["model.name"],
            str(run.settings["seed"]),
            run.state,
            *(_number(_of(run, key)) for key in keys),
            _number(run.summary.wall_seconds / 60 if run.summary else None),
        ]
        for name, run in zip(names(runs), runs, strict=True)
    ]


def over_seeds(runs: list[Run]) -> Table | None:
    """Mean and spread over finished runs that differ in their seeds alone; None where there are none."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.finished:
            rest = {k: v for k, v in run.settings.items() if k not in _SEEDS and not k.startswith(MACHINE_KEYS)}
            groups.setdefault(json.dumps(rest, sort_keys=True), []).append(run)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return None
    keys = ["train_top1", "test_top1", "fitted_epoch"]
    keys += [key for key in _OF_SIGNS if any(_of(run, key) is not None for group in several for run in group)]
    return ["runs", "seeds", *(_SUMMARY[key] for key in keys)], [
        [
            " ".join([group[0].settings["recipe"], *(c for c in group[0].changes if not c.startswith(_SEEDS))]),
            str(len(group)),
            *(mean_and_deviation([v for run in group if (v := _of(run, key)) is not None]) for key in keys),
        ]
        for group in several
    ]


def data_of(run: Run) -> Table:
    """The data that a run was trained on, from its manifest."""
    specification, split = run.manifest.specification, run.manifest.splits["train"]
    column = run.labels.column_name
    changed = split.columns[column].changed if column in split.columns else 0
    share = f"{changed:,} ({100 * changed / split.samples:.1f} %)"
    return ["source", "training samples", "classes", "pixels", "encoding", "labels changed", "manifest"], [
        [
            specification["source"]["source"],
            f"{split.samples:,}",
            str(run.labels.classes(run.manifest.num_classes)),
            specification["pixels"]["kind"],
            specification["image"]["encoding"],
            "signs in place of classes" if run.labels.signs else share,
            run.summary.manifest_sha256[:12] if run.summary else "-",
        ]
    ]


def _of(run: Run, key: str) -> Any:
    return None if run.summary is None else getattr(run.summary, key)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,.2f}" if isinstance(value, float) else str(value)
