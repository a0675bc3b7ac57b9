"""fastgen memorization: train the networks that are missing, estimate, and show."""

from pathlib import Path

from fastgen.memorization import networks, tables
from fastgen.memorization.estimates import Memorization, margin_outside, memorization
from fastgen.memorization.influence import top_pairs
from fastgen.memorization.networks import Asked, collect
from fastgen.memorization.page import Images, Shown, shown
from fastgen.memorization.removal import removals, results
from fastgen.memorization.wandb_log import check_wandb, log
from fastgen.recipe.schema import Recipe
from fastgen.report.outcome import finish
from fastgen.report.page import Page
from fastgen.report.plots import against_removed
from fastgen.sets import bake_recipe, sample_files
from fastgen.sweeps.executor import DONE, Job
from fastgen.sweeps.sweep import tell_failures
from pipelines.baked.shards import Export
from pipelines.errors import UserError
from pipelines.locations import outputs_root

_TOP = 20  # training samples that are kept for each test sample


def run(
    arguments: list[str],
    *,
    count: int = 200,
    fraction: float = 0.7,
    fractions: list[float] | None = None,
    removal: list[float] | None = None,
    seeds: int = 3,
    jobs: int | None = None,
    matrix: bool = False,
    wandb: bool = False,
    output: Path | None = None,
    command: str,
) -> None:
    """Train networks on random subsets, and write what they say of every sample.

    arguments: recipe=NAME and key=value. count: networks for each fraction. fraction: of the samples, for memorization
    and influence; fractions: for the C-score (None: the same). removal: thresholds of memorization to train without,
    each with as many `seeds`. jobs: trainings at a time. matrix: write the whole matrix of influences. output: a folder
    (None: in memorization/ below the folder of outputs). command: the command line, which the page repeats. Raises
    UserError for mistakes, and SystemExit(1) at the end when trainings failed.
    """
    asked = Asked.parse(arguments)
    _check_options([fraction, *(fractions or [])], removal or [])
    recipe = asked.point().load()
    if wandb:
        check_wandb(recipe)
    root = output or outputs_root() / "memorization" / asked.point().folder_name
    wanted = list(dict.fromkeys((fraction, *(fractions or []))))
    train, test = _images(recipe)
    _check_set(recipe, len(train.given), wanted)
    if removal and (test is None or recipe.train.evaluate == "never"):
        raise UserError(
            "--removal compares accuracies on a test split: it needs one (data.holdout=0.1 makes it), and "
            "train.evaluate=always or end"
        )
    if matrix and test is None:
        raise UserError("--matrix is of influences on a test split, and there is none: data.holdout=0.1 makes one")
    asked.claim(root)
    points = {each: asked.on_subsets(each, count) for each in wanted}
    trained = networks.train([point for some in points.values() for point in some], root, jobs)
    of_fraction = {each: trained[i * count : (i + 1) * count] for i, each in enumerate(wanted)}
    said_at = {
        each: collect(some, len(train.given), 0 if test is None else len(test.given))
        for each, some in of_fraction.items()
    }
    said = said_at[fraction]
    if not len(said.member):
        first = of_fraction[fraction][0]
        raise UserError(
            f"none of the {count:,} networks on {fraction:g} of the samples has finished: {first.problem or first.log}"
        )
    found, margin = memorization(said.member, said.correct), margin_outside(said.member, said.margin)
    several = {
        each: memorization(said_at[each].member, said_at[each].correct) for each in sorted(set(fractions or [fraction]))
    }
    asked.claim(root)  # again, as another command may have begun here meanwhile
    tables.clear(root, test is not None, matrix)
    if test is not None:
        pairs = top_pairs(said.member, said.correct_test, _TOP, root / tables.MATRIX if matrix else None)
        tables.write_pairs(root, pairs)
    asked.claim(root)  # pairs of all samples take long
    tables.write_samples(root, train.given, train.true, found, margin, several, train.names, train.files)
    all_shown = shown(train, test, said, found, margin)
    for each in wanted[1:]:
        all_shown.numbers[f"networks on {each:g} of the samples"] = len(said_at[each].member)
    page = Page(f"Memorization: {recipe.recipe}")
    if removal and all(job.state == DONE for job in trained):
        trained += _removal(asked, found, removal, seeds, jobs, root, all_shown)
    elif removal:  # it would be of other samples in the end
        page.text("Nothing was trained without the most memorised samples yet (--removal), as networks have failed.")
    all_shown.onto(page)
    page.code(command)
    written = [tables.SAMPLES] + [tables.PAIRS] * (test is not None) + [tables.MATRIX] * matrix
    page.text(f"{', '.join(written)} and all runs lie in {root}; the same command with more --networks goes on.")
    finish(page, root / "memorization.html")
    if wandb:
        log(recipe, root, all_shown)
    tell_failures(trained)


def _check_options(fractions: list[float], removal: list[float]) -> None:
    for each in fractions:
        if not 0 < each < 1:
            raise UserError(
                f"a fraction of {each:g} leaves no network without a sample, or none with it; "
                "it lies above 0 and below 1"
            )
    for each in removal:
        if not 0 < each <= 1:
            raise UserError(f"--removal={each:g} is a threshold of memorization: above 0 and at most 1")


def _check_set(recipe: Recipe, samples: int, fractions: list[float]) -> None:
    """Raises UserError where a fraction of the samples does not fill a batch, before hundreds of trainings find out."""
    for fraction in fractions:
        if (members := round(fraction * samples)) < recipe.data.batch_size:
            raise UserError(
                f"data.batch_size={recipe.data.batch_size} is larger than the {members:,} samples to train on that "
                f"a fraction of {fraction:g} leaves; lower it, or raise the fraction"
            )


def _images(recipe: Recipe) -> tuple[Images, Images | None]:
    """Training and test samples, as they are baked."""
    baked = bake_recipe(recipe) if recipe.data.shards is None else Export.open(recipe.data.shards)
    names, splits = baked.manifest.class_names, baked.splits
    train = Images.of(splits["train"], names, recipe.data.labels.column_name, sample_files(recipe))
    return train, Images.of(splits["val"], names, "label_true") if "val" in splits else None


def _removal(
    asked: Asked,
    found: Memorization,
    thresholds: list[float],
    seeds: int,
    jobs: int | None,
    root: Path,
    all_shown: Shown,
) -> list[Job]:
    """Train without, and add what came of it to what is shown."""
    planned = removals(asked, found.value, thresholds, seeds, root)
    points = [point for one in planned for some in one.points.values() for point in some]
    done = networks.train(points, root, jobs)
    series, rows = results(planned, done, len(found.value))
    all_shown.tables.append((["memorization from", "left out", *(f"test (%) {way}" for way in series)], rows))
    caption = (
        f"Test accuracy of networks without the most memorised samples, and without as many random ones; {seeds} seeds"
    )
    all_shown.figures["removal"] = against_removed(series), caption
    return done
