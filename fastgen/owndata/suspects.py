"""fastgen suspects: which of a run's labels look wrong, as a table, a CSV and a sheet of images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from fastgen.owndata.ranking import Evidence, as_csv, found_at, gather
from fastgen.recipe.load import load
from fastgen.recipe.schema import Recipe
from fastgen.runs.dynamics import FOLDER, MOST_PROBABILITIES
from fastgen.runs.folder import RECIPE, check_same_data
from fastgen.sets import bake_recipe, contact_sheet, sample_files
from fastgen.sweeps.executor import run_points
from fastgen.sweeps.grid import Point
from fastgen.sweeps.sweep import LiveTable, tell_failures
from fastgen.terminal import console
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.durable import refusals, write_atomically
from pipelines.errors import UserError
from pipelines.sampler import Sampler, SubsetSpec

_MEMORISED = 0.02  # of the samples: where a network says otherwise of fewer, it may have learned wrong labels, too
_TABLE = 10  # lines that are printed


def suspects(
    run_dir: Path, output: Path | None = None, top: int = 64, folds: int | None = None, jobs: int | None = None
) -> None:
    """Rank the labels of a run by what its training recorded, and write suspects.csv (all) and suspects.png (the top).

    output: a folder (None: RUN_DIR/suspects). folds: train so many more networks with the run's recipe, each on all
    parts of the training set but one, and go by what they say of the part that they never saw, too; those that are
    there are not trained again. jobs: of them at a time. Raises UserError, naming the remedy, for a run without
    records, or whose data have changed.
    """
    if not (run_dir / RECIPE).is_file():
        raise UserError(f"{run_dir} is no run directory (it has no {RECIPE}); name one that `fastgen train` made")
    recipe = load(str(run_dir / RECIPE), ["track.wandb=off"])
    if recipe.data.subset.folds is not None:
        raise UserError(f"{run_dir} is one of {recipe.data.subset.folds} folds; name the run that they are of")
    if not folds and not (run_dir / FOLDER).is_dir():
        raise UserError(
            f"{run_dir} recorded no dynamics; train with train.dynamics=true, or add --folds 4 to train four networks "
            "that do"
        )
    baked = _opened(recipe)
    check_same_data(run_dir, baked.manifest)
    runs = [run_dir] if (run_dir / FOLDER).is_dir() else []
    runs += train_folds(run_dir, recipe, baked, folds, jobs) if folds else []
    evidence, names = gather(runs), baked.manifest.class_names
    output = output or run_dir / "suspects"
    with refusals(output, "name another folder with --output"):
        output.mkdir(parents=True, exist_ok=True)
        sample_names = sample_files(recipe)
        write_atomically(output / "suspects.csv", as_csv(evidence, names, sample_names))
        png = io.BytesIO()
        _sheet(evidence, baked, top).save(png, "PNG")
        write_atomically(output / "suspects.png", png.getvalue())
    _tell(evidence, names, sample_names)
    print(
        f"{output / 'suspects.csv'}: every sample, the most suspicious first; {output / 'suspects.png'}: {top} images"
    )


def _opened(recipe: Recipe) -> BakedSet | Export:
    return Export.open(recipe.data.shards) if recipe.data.shards else bake_recipe(recipe)


def train_folds(
    run_dir: Path, recipe: Recipe, baked: BakedSet | Export, folds: int, jobs: int | None = None
) -> list[Path]:
    """Run directories of the networks that leave out one part each, trained where they are not there yet.

    Raises UserError for a set that is too large for their probabilities, SystemExit where one failed.
    """
    samples, classes = baked.splits["train"].samples, baked.manifest.num_classes
    if samples * classes > MOST_PROBABILITIES:
        raise UserError(
            f"--folds keeps a probability of each of {classes:,} classes for each of {samples:,} samples, and "
            f"{MOST_PROBABILITIES:,} are kept at most; leave it out, or train on fewer with data.limit"
        )
    every = ("run.resume=false", "track.wandb=off", "train.dynamics=true", f"data.subset.folds={folds}")
    given = _by_index(baked, recipe.data.labels.column_name)
    for fold in range(folds):  # what would be wrong with any of them is said before one begins
        members = SubsetSpec(folds, fold).members(given)
        assert members is not None
        Sampler(int(members.sum()), recipe.data.batch_size)
    points = [Point(str(run_dir / RECIPE), (*every, f"data.subset.fold={fold}")) for fold in range(folds)]
    place = {point.folder_name: str(fold) for fold, point in enumerate(points)}
    with LiveTable(["fold"], lambda job: [place[job.folder.name]]) as live:
        done = run_points(points, run_dir / f"folds-{folds}", jobs, live.show)
    tell_failures(done)
    return [job.folder for job in done]


def _by_index(baked: BakedSet | Export, column: str) -> np.ndarray:
    """A column of the training set in the order of the sample index."""
    columns = baked.splits["train"].columns
    return columns[column][np.argsort(columns["index"])]


def _sheet(evidence: Evidence, baked: BakedSet | Export, top: int) -> Image.Image:
    stored, names = baked.splits["train"], baked.manifest.class_names
    row_of = np.argsort(stored.columns["index"])
    suggested = evidence.suggested
    probability = evidence.probability_of(suggested)
    cells = []
    for index in evidence.order()[:top].tolist():
        differs = suggested[index] != evidence.given[index]
        told = f"{names[suggested[index]]} {probability[index]:.2f}" if evidence.probabilities is not None else ""
        cells.append((stored.image(int(row_of[index])), names[evidence.given[index]], told, differs))
    return contact_sheet(cells)


def _tell(evidence: Evidence, names: list[str], sample_names: list[str] | None) -> None:
    table = Table("rank", "sample", "given label", "the network says", "margin, 0 to 1")
    suggested, order = evidence.suggested, evidence.order()
    for rank, index in enumerate(order[:_TABLE].tolist(), 1):
        sample = sample_names[index] if sample_names else str(index)
        margin = f"{evidence.bounded_margin[index]:.2f}"
        table.add_row(str(rank), sample, names[evidence.given[index]], names[suggested[index]], margin)
    console().print(table)
    others = int((suggested[order] != evidence.given[order]).sum())
    how = "networks that never saw them call" if evidence.out_of_sample else "the network in training calls"
    print(f"{how} {others:,} of {len(order):,} samples something else than their labels do")
    if not evidence.out_of_sample and others < _MEMORISED * len(order):
        print("it agrees with nearly all labels, wrong ones perhaps, too: --folds 4 asks networks that never saw them")
    if (found := found_at(evidence)) is not None:
        planted, percent = found
        print(f"{planted:,} labels were corrupted on purpose; so were {percent:.1f} % of the first {planted:,} here")
