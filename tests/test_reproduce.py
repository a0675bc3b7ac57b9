"""The paper's grids, tables and figures: every row measures what it says, and nothing is shown that was not run."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t
from whole_runs import a_summary

from fastgen import cli
from fastgen.paper.comparison import Result, _inside, comparison
from fastgen.paper.coverage import coverage
from fastgen.paper.experiments import EXPERIMENTS, LEVELS, STUDIES, Entry, Scope
from fastgen.paper.figures import FIGURES
from fastgen.paper.numbers import table
from fastgen.paper.reproduce import _show, notes
from fastgen.paper.settings import Settings
from fastgen.paper.studies import case_file, find_study
from fastgen.report.page import Page
from fastgen.report.plots import Series, accuracy_curves, against_corruption, loss_curves, parts_curves
from fastgen.report.spread import interval, mean_and_deviation
from fastgen.sweeps.executor import DONE, FAILED, WAITING, Job, found_jobs
from fastgen.sweeps.grid import Point

FULL = Scope(None, smoke=False)


def test_the_papers_tables_are_whole():
    assert [len(table(number)) for number in (1, 2, 3, 4)] == [19, 7, 5, 6]
    assert {"model": "mlp_1x512", "labels": "random", "train_acc": "99.34"}.items() <= table(1)[-1].items()


@pytest.mark.parametrize("name", ["table1", "table2", "table4"])
def test_a_rows_recipe_has_the_rows_switches(name):
    rows = table(int(name[-1]))
    entries = EXPERIMENTS[name].entries(FULL)
    assert len(entries) == len(rows) == len({entry.recipe for entry in entries})
    for row, entry in zip(rows, entries, strict=True):
        recipe = entry.point(0, ()).load()
        assert recipe.data.labels.kind == row.get("labels", "random")
        augment, decay = recipe.data.augment, recipe.optim.weight_decay > 0
        if name == "table1":
            assert (augment.random_crop, decay) == (row["random_crop"] == "yes", row["weight_decay"] == "yes")
            assert not augment.flip and not augment.rotate and recipe.model.dropout == 0
        elif name == "table2":
            random_regions = recipe.data.view.random != "none" and augment.flip and augment.color
            assert random_regions == (row["data_aug"] == "yes") and decay == (row["weight_decay"] == "yes")
            assert (recipe.model.dropout > 0) == (row["dropout"] == "yes")
        else:
            kind = row["regularizer"]
            assert decay == (kind == "weight_decay") and augment.random_crop == (kind == "random_cropping")
            assert (augment.flip, augment.rotate) == ((True, 25) if kind == "augmentation" else (False, 0))
            assert recipe.schedule.factor == (0.95 if kind == "weight_decay" else 0.999)
        for printed in entry.paper.values():
            assert printed in row.values()


def test_todays_regularisers_go_on_with_table_4():
    """Its rows; none, then one at a time for the small Inception and AlexNet; stochastic depth where it can be."""
    entries = EXPERIMENTS["regularisers"].entries(FULL)
    assert [(entry.recipe, entry.paper) for entry in entries[:6]] == [
        (entry.recipe, entry.paper) for entry in EXPERIMENTS["table4"].entries(FULL)
    ]
    own = [(entry.labels["model"], entry.labels["regularizer"].split()[0], entry.point(0, ()).load()) for entry in
           entries[6:]]  # fmt: skip
    assert [name for _, name, _ in own[:6]] == ["none", "dropout", "label", "mixup,", "CutMix,", "RandAugment,"]
    assert [model for model, *_ in own] == ["Inception"] * 6 + ["AlexNet"] * 6 + ["ResNet-18 (timm)"] * 2
    for model, name, recipe in own:
        switched = {
            "dropout": recipe.model.dropout,
            "label": recipe.train.label_smoothing,
            "mixup,": recipe.train.mixup,
            "CutMix,": recipe.train.cutmix,
            "RandAugment,": recipe.data.augment.rand_ops,
            "stochastic": recipe.model.options.get("drop_path_rate", 0),
        }
        assert {key for key, value in switched.items() if value} == ({name} if name != "none" else set())
        assert (recipe.model.name == "resnet18") == ("ResNet" in model) and recipe.data.labels.kind == "random"
        assert recipe.schedule.factor == (0.999 if name.endswith(",") else 0.95)
    printed = [entry.paper.get("train_top1") for entry in entries[6:]]
    assert printed == ["100.0", *[None] * 5, "99.82", *[None] * 5, None, None]
    notes_of = " ".join(EXPERIMENTS["regularisers"].notes)
    assert "The paper has the rows that show a number of its own" in notes_of and "no others" in notes_of
    (one, two) = EXPERIMENTS["regularisers"].entries(Scope(["resnet18"], smoke=True))
    assert "data.limit=5000" in one.settings and "model.options.drop_path_rate=0.2" in two.settings


@pytest.mark.parametrize("name", list(EXPERIMENTS))
@pytest.mark.parametrize("smoke", [False, True])
def test_every_entry_is_a_valid_recipe(name, smoke):
    if smoke and not EXPERIMENTS[name].smoke:
        pytest.skip("trains on ImageNet")
    entries = EXPERIMENTS[name].entries(Scope(None, smoke))
    recipes = [entry.point(3, ("train.max_steps=2",)).load() for entry in entries]
    assert {(recipe.seed, recipe.train.max_steps) for recipe in recipes} == {(3, 2)}
    assert all(recipe.data.labels.seed == (0 if recipe.data.labels.kind == "true" else 3) for recipe in recipes)
    assert len({entry.point(0, ()).folder_name for entry in entries}) == len(entries)
    assert all((recipe.data.limit is not None) == smoke for recipe in recipes)


def test_levels_of_corruption_are_those_of_the_paper():
    entries = EXPERIMENTS["fig1b"].entries(Scope(["alexnet"], smoke=False))
    levels = [entry.point(0, ()).load().data.labels.p for entry in entries]
    assert levels == [entry.level for entry in entries] and np.allclose(levels, np.arange(11) / 10)


def finished(folder, key="run", **summary):
    """A job whose run directory says this."""
    job = Job(Point("quickstart", (f"track.project={key}",)), folder / key, state=DONE)
    job.folder.mkdir(parents=True)
    a_summary(**{"epochs": 3.0, "wall_seconds": 90.0, "fitted_epoch": 2.5, **summary}).write(job.folder)
    return job


def test_the_interval_is_where_one_more_run_would_lie():
    assert interval([50.0]) is None
    low, high = interval([50.0, 52.0, 51.0])
    assert (low + high) / 2 == pytest.approx(51) and (high - low) / 2 == pytest.approx(t.ppf(0.975, 2) * (4 / 3) ** 0.5)
    # Of many draws, 95 % lie in the interval of the five before them.
    draws = np.random.default_rng(0).normal(50, 3, (4000, 6))
    inside = [a <= row[5] <= b for row in draws if (bounds := interval(row[:5].tolist())) for a, b in [bounds]]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
    assert (
        mean_and_deviation([]) == "-"
        and mean_and_deviation([50.126]) == "50.13"
        and mean_and_deviation([50.0, 52.0]) == "51.00 ± 1.41"
    )


def test_the_table_shows_means_and_what_is_missing(tmp_path):
    entry = Entry({"model": "M"}, "quickstart", paper={"train_top1": "100.0", "test_top1": "50.51"})
    runs = [finished(tmp_path, f"s{i}", train_top1=100.0, test_top1=50.0 + i) for i in range(3)]
    lost = Job(Point("quickstart"), tmp_path / "lost", state=FAILED, problem="it diverged")
    experiment = EXPERIMENTS["table1"]
    header, rows = comparison(experiment, [Result(entry, runs), Result(entry, [lost, lost, lost])])
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert first["training, paper"] == "100.0" and first["training, ours"] == "100.00 ± 0.00"
    assert first["test, ours"] == "51.00 ± 1.00" and first["seeds"] == "3" and first["minutes"] == "1.5 ± 0.0"
    assert header.count("inside") == 2 and rows[0][header.index("inside")] == "yes"
    assert [_inside([99.998, 100.0, 100.0], printed) for printed in ("100.0", "99.9", "100.05")] == ["yes", "no", "no"]
    assert second["test, ours"] == "failed" and second["seeds"] == "0" and second["epochs"] == "-"
    assert any("it diverged" in note for note in notes("table1", [Result(entry, [lost])], smoke=False))
    never = finished(
        tmp_path, "never", train_top1=99.0, test_top1=9.0, fitted_epoch=None, first_epoch_at={"99": 1.5, "100": None}
    )
    once = [never, finished(tmp_path, "once", train_top1=100.0, test_top1=9.0, fitted_epoch=2.0)]
    entry = Entry({"model": "M"}, "quickstart")
    header, rows = comparison(EXPERIMENTS["fig1b"], [Result(entry, [never]), Result(entry, once)])
    at = header.index("fitted at epoch, ours")
    assert rows[0][at] == "> 3 epochs" and rows[1][at] == "> 2.5 epochs (1 of 2 unfitted)"
    assert rows[0][header.index("99 % at epoch, ours")] == "1.50"
    assert "paper" not in " ".join(header)


def test_table2_has_both_brackets_and_the_row_that_it_cites(tmp_path):
    experiment = EXPERIMENTS["table2"]
    entries = experiment.entries(Scope(None, smoke=False))
    results = [Result(entry, [Job(entry.point(0, ()), tmp_path / str(i))]) for i, entry in enumerate(entries)]
    header, rows = comparison(experiment, results)
    assert all(len(row) == len(header) for row in rows) and len(rows) == len(table(2)) + 1
    best = [row[header.index(f"best test {top}, paper")] for row in rows for top in ("top-1", "top-5")]
    assert [text for text in best if text] == ["72.57", "91.31", "63.16", "84.49"]
    cited = dict(zip(header, rows[-1], strict=True))
    assert "AlexNet" in cited["labels"] and cited["test top-5, paper"] == "83.6"
    assert cited["test top-5, ours"] == "cited" and cited["seeds"] == ""


def test_coverage_names_whole_subset_and_never(tmp_path):
    """From run directories: a whole run, one with a limit, one that has not ended, and points of a curve."""

    def a_run(settings, summary=MappingProxyType({}), lines=()):
        point = Point(settings[0], tuple(settings[1:]))
        folder = tmp_path / "runs" / point.folder_name
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(point.load().to_yaml())
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if summary is not None:
            epochs = float(point.load().train.epochs)
            a_summary(**{"recipe": settings[0], "epochs": epochs, **summary}).write(folder)
        return f"runs/{point.folder_name}"

    one = a_run(["cifar10_mlp_1x512_true"])
    two = a_run(["cifar10_mlp_1x512_true", "seed=1", "train.threads=1"])
    part = a_run(["cifar10_alexnet_true", "data.limit=1000"])
    line = {"step": 5, "epoch": 7.5, "wall_seconds": 1.0, "train_top1_percent": 31.25, "test_top1_percent": 20.0}
    begun = a_run(["cifar10_inception_random"], summary=None, lines=[line])
    a_run(["cifar10_inception_true"], summary=None)  # died before its first evaluation
    short = a_run(["cifar10_mlp_3x512_true"], summary={"epochs": 0.5})
    other = a_run(["cifar10_mlp_3x512_random"], summary={"epochs": 65.0, "fitted_epoch": 65.0})
    (tmp_path / other).rename(tmp_path / "runs" / "cifar10_mlp_3x512_random-of_before")
    early = a_run(["cifar10_mlp_1x512_random"], summary={"epochs": 80.0, "fitted_epoch": 80.0})
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "recipe.yaml").write_text("")
    point = a_run(["cifar10_mlp_1x512_partial", "data.labels.p=0.3"])
    page = coverage(tmp_path)
    (header, rows), *_ = page.tables
    assert any("runs/damaged" in text for text in page.texts)
    found = {(row[0], row[1]): row[2:] for row in rows}
    label = "model {}, labels {}, random crop no, weight decay {}"
    state, seeds, proof = found["table1", label.format("MLP 1x512", "true", "no")]
    assert (state, seeds) == ("whole", "2") and {one, two} == {path.removesuffix("/summary.json") for path in
                                                              proof.split(", ")}  # fmt: skip
    assert found["table1", label.format("AlexNet", "true", "no")] == [
        "subset: data.limit=1000", "", f"{part}/summary.json"
    ]  # fmt: skip
    assert found["table1", label.format("Inception", "random", "no")] == [
        "subset: 7.5 of 100 epochs", "", f"{begun}/metrics.jsonl"
    ]  # fmt: skip
    assert found["table1", label.format("MLP 3x512", "true", "no")] == [
        "subset: 0.5 of 40 epochs", "", f"{short}/summary.json"
    ]  # fmt: skip
    assert found["table1", label.format("MLP 3x512", "random", "no")][0] == "subset: of another version"
    assert found["table1", label.format("MLP 1x512", "random", "no")] == ["whole", "1", f"{early}/summary.json"]
    for missing in (label.format("Inception", "true", "no"), label.format("MLP 1x512", "true", "yes")):
        assert found["table1", missing] == ["never", "", ""]
    levels = [found["fig1b", f"model MLP 1x512, corruption {level:g}"] for level in LEVELS]
    assert [state for state, *_ in levels] == ["never"] * 3 + ["whole"] + ["never"] * 7
    assert levels[3][2] == f"{point}/summary.json"
    assert {row[0] for row in rows} == {*EXPERIMENTS, *STUDIES} - {"regularisers"}
    assert all(state == "never" for (name, _), (state, *_) in found.items() if name in STUDIES)
    entry = next(
        e for e in EXPERIMENTS["table1"].entries(Scope(["inception"], False)) if e.labels["labels"] == "random"
    )
    job = Job(entry.point(0, ()), tmp_path / begun)
    header, (row,) = comparison(EXPERIMENTS["table1"], [Result(entry, [job])])
    assert row[header.index("test, ours")] == "20.00 after 7.5 epochs (not finished)"


def test_coverage_of_studies(tmp_path):
    """All rows of a case alike; another case's file proves nothing; where the data lay is no difference."""

    def states(name, label):
        (_, rows), *_ = coverage(tmp_path).tables
        return [row[2] for row in rows if row[0] == name and label in row[1]]

    def write(name, chosen, **settings):
        (case,) = [case for case in find_study(name).cases(None) if case.name == chosen]
        spec = Settings.parse([f"data.{key}={value}" for key, value in settings.items()])
        path = case_file(name, case, spec, tmp_path)
        path.parent.mkdir(exist_ok=True)
        document = {"case": case.described, "settings": asdict(spec), "measured": []}
        path.write_text(json.dumps(document))

    write("table3", "mnist-gabor_filters", limit=1000)
    write("theorem1", "mnist", limit=1000)
    assert states("theorem1", "points mnist") == ["subset: data.limit=1000"] * 5
    assert states("table3", "dataset mnist, preprocessing none") == ["never"]
    assert states("table3", "dataset mnist, preprocessing gabor") == ["subset: data.limit=1000"]
    write("theorem1", "mnist", root="/data")
    assert states("theorem1", "points mnist") == ["whole"] * 5 and states("theorem1", "points cifar10") == ["never"] * 5


def test_figure_2a_compares_what_it_says():
    for entry in EXPERIMENTS["fig2a"].entries(Scope(None, smoke=False)):
        recipe, curve = entry.point(0, ()).load(), entry.labels["curve"]
        assert recipe.optim.weight_decay > 0 and "weight decay" in curve
        assert recipe.data.augment.color == ("augmentation" in curve) == (recipe.model.dropout > 0)


def test_time_to_overfit_is_relative_to_the_same_seeds_true_labels(tmp_path):
    scope = Scope(["mlp_1x512"], smoke=True)
    results = []
    for entry in EXPERIMENTS["fig1b"].entries(scope):
        level = entry.level
        jobs = [
            finished(
                tmp_path, f"{level}-{s}", test_top1=50 - 40 * level, fitted_epoch=(s + 1) * (2 + level), fitted_at=99.9
            )
            for s in range(2)
        ]
        results.append(Result(entry, jobs))
    ((title, figure),) = FIGURES["fig1b"](results)
    assert "99.9 %" in title and "relative" in title and "hollow" not in title
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([(2 + entry.entry.level) / 2 for entry in results])
    ((_, figure),) = FIGURES["fig1c"](results)
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([50 + 40 * entry.entry.level for entry in results])


def test_a_point_that_was_never_fitted_is_drawn_as_a_lower_bound(tmp_path):
    entries = EXPERIMENTS["fig1b"].entries(Scope(["mlp_1x512"], smoke=True))
    at = {entry.level: 10 * (1 + entry.level) for entry in entries}

    def drawn(name, unfitted):
        jobs = [
            finished(
                tmp_path, f"{name}{level}", epochs=60.0, fitted_epoch=None if level == unfitted else epoch,
                first_epoch_at={"99": epoch / 2, "99.9": None},
            )
            for level, epoch in at.items()
        ]  # fmt: skip
        (title, figure), (other, sooner) = FIGURES["fig1b"](
            [Result(e, [j]) for e, j in zip(entries, jobs, strict=True)]
        )
        assert "Time until 99 %" in other and "hollow" not in other
        assert sooner.axes[0].lines[0].get_ydata() == pytest.approx([1 + level for level in at])
        return title, figure.axes[0]

    title, axes = drawn("one", 1.0)
    assert axes.lines[0].get_ydata()[-2:] == pytest.approx([1.9, 6.0])
    (hollow,) = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert hollow.get_xydata().tolist() == [[1.0, 6.0]] and "not within 60 epochs" in title
    title, axes = drawn("base", 0.0)  # nothing to be relative to
    assert axes.lines[0].get_ydata()[:2] == pytest.approx([60, 11]) and "relative" not in title
    assert axes.get_ylabel() == "epochs to overfit"


def test_the_page_of_figure_1b_has_both_of_its_figures(tmp_path):
    entries = EXPERIMENTS["fig1b"].entries(Scope(["mlp_1x512"], smoke=True))
    jobs = {
        entry.level: finished(
            tmp_path, f"{entry.level}", epochs=60.0, fitted_at=99.9, train_top1=99.5, test_top1=50.0,
            fitted_epoch=None if entry.level > 0.5 else 20.0, first_epoch_at={"99": 10.0, "99.9": None},
        )
        for entry in entries
    }  # fmt: skip
    _show("fig1b", [Result(entry, [jobs[entry.level]]) for entry in entries], tmp_path, "a command", False)
    assert {path.name for path in (tmp_path / "fig1b_files").glob("*.svg")} == {"fig1b.svg", "fig1b-1.svg"}
    text = (tmp_path / "fig1b.md").read_text()
    assert "Time until 99.9 %" in text and "Time until 99 % of the training set is fitted, relative" in text


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ({"fitted_epoch": 5.0, "first_epoch_at": {}}, {"fitted_epoch": (5.0, True), "epoch_at_99": None}),
        ({"fitted_at": 95.0, "fitted_epoch": 5.0, "first_epoch_at": {"99": None}}, {"epoch_at_99": None}),
        ({"fitted_at": 95.0, "fitted_epoch": 5.0, "first_epoch_at": {"99": 5.0}}, {"epoch_at_99": (5.0, True)}),
        ({"first_epoch_at": {"99": None}}, {"fitted_epoch": (60.0, False), "epoch_at_99": (60.0, False)}),
    ],
)
def test_what_a_run_says_of_a_time_that_it_did_not_see(said, known):
    summary = a_summary(epochs=60.0, **said)
    assert {key: summary.time_to(key) for key in known} == known


def test_figure_1b_is_drawn_of_the_seeds_and_networks_that_were_run(tmp_path):
    """Seed 0 of one network, of three networks and three seeds that the page asks for."""
    results = []
    for entry in EXPERIMENTS["fig1b"].entries(Scope(None, smoke=False)):
        jobs = [Job(entry.point(seed, ()), tmp_path / f"none {entry.recipe} {seed}") for seed in (0, 1, 2)]
        if entry.labels["model"] == "MLP 1x512":
            jobs[0] = finished(tmp_path, f"{entry.level}", fitted_epoch=10 * (1 + entry.level), test_top1=50.0)
        results.append(Result(entry, jobs))
    ((title, figure),) = FIGURES["fig1b"](results)
    (line,) = figure.axes[0].lines
    assert "relative" in title and line.get_ydata() == pytest.approx([1 + level for level in LEVELS])
    ((_, figure),) = FIGURES["fig1c"](results)
    assert len(figure.axes[0].lines) == 1


def test_a_finished_run_counts_for_its_own_settings_alone(tmp_path):
    """A folder's name leaves out defaults, so a default that changed is found in the run's recipe."""
    point = Point("quickstart", ("seed=3",))
    folder = tmp_path / point.folder_name
    folder.mkdir()
    a_summary().write(folder)
    assert found_jobs([point], tmp_path)[0].state == WAITING  # no recipe
    text = point.load().to_yaml()
    (folder / "recipe.yaml").write_text(text)
    assert found_jobs([point], tmp_path)[0].state == DONE
    (folder / "recipe.yaml").write_text(text.replace("checks_per_epoch: 1", "checks_per_epoch: 2"))
    assert found_jobs([point], tmp_path)[0].state == WAITING


CURVE = ([0, 10, 20], [2.3, 1.0, 0.1])
DRAWN = {
    "loss": lambda: loss_curves({"true labels": [CURVE], "<random>": [CURVE, CURVE]}),
    "corruption": lambda: against_corruption({"M": Series([0, 1], [1, 2], [1, 1.5], [1, 3])}, "time"),
    "accuracy": lambda: accuracy_curves({"M": (CURVE, CURVE), "no test": (CURVE, ([], []))}),
    "parts": lambda: parts_curves({"clean": CURVE, "corrupted": CURVE}),
    "nothing": lambda: loss_curves({}),
}


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href") and v]


def test_a_page_needs_no_network_and_says_everything(tmp_path):
    page = Page("A <b>title</b>")
    page.heading("Part")
    page.text("1 < 2 & so on")
    page.table(["a", "b|c"], [["1", "<script>"], ["2", "x"]])
    for name, draw in DRAWN.items():
        page.figure(name, draw(), f"caption of {name}")
    page.image(Image.new("RGB", (4, 4)), "a picture")
    page.code("fastgen train\n  recipe=x")
    page.code("long", folded="the whole of it")
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    seen = Seen(text)
    assert seen.tags.count("svg") == len(DRAWN) and seen.tags.count("table") == 1 and "script" not in seen.tags
    assert len(seen.ids) == len(set(seen.ids))
    references = [link.removeprefix("#") for link in seen.links if link.startswith("#")]
    references += re.findall(r"url\(#([^)]*)\)", text)
    assert references and set(references) <= set(seen.ids)
    assert all(link.startswith(("#", "data:")) for link in seen.links)
    markdown = (tmp_path / "page.md").read_text()
    assert "| 1 | <script> |" in markdown and "b\\|c" in markdown and "    fastgen train" in markdown
    for name in DRAWN:
        assert f"(page_files/{name}.svg)" in markdown
        assert Image.open(tmp_path / "page_files" / f"{name}.png").size > (500, 300)
    # Equal data, equal bytes.
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = Page("x")
    for name, draw in DRAWN.items():
        again.figure(name, draw(), "")
    again.write(tmp_path / "again.html")
    for name in DRAWN:
        assert (tmp_path / "again_files" / f"{name}.svg").read_bytes() == before[tmp_path / f"page_files/{name}.svg"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'NAME'"),
        (["table1", "table4"], "'table4' is no override"),
        (["tabel1"], "did you mean 'table1'"),
        (["table1", "--models", "mlp_1x51"], "--models has 'mlp_1x51'"),
        (["table1", "--seeds", "0,0"], "--seeds=0,0"),
        (["table1", "--scale", "tiny"], "'tiny' is not one of 'full', 'smoke'"),
        (["table2", "--scale", "smoke"], "no small scale"),
        (["fig1a", "--models", "alexnet,inception"], "one network"),
        (["table1", "optim.lrr=1"], "did you mean 'optim.lr'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *arguments]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_the_command_runs_what_is_missing_and_shows_it(tmp_path, capfd):
    arguments = ["reproduce", "table4", "--models", "mlp_1x512", "--output", str(tmp_path), "data.source=synthetic"]
    arguments += ["data.synthetic.samples=64", "data.synthetic.test_samples=16", "train.max_steps=1", "data.limit=60"]
    arguments += ["data.batch_size=20"]
    for _ in range(2):
        assert cli.main(arguments) == 0
    (run,) = (tmp_path / "runs").glob("cifar10_*")
    assert (tmp_path / "runs" / "logs" / f"{run.name}.txt").read_text().count("finished after") == 1
    summary = json.loads((run / "summary.json").read_text())
    markdown = (tmp_path / "table4.md").read_text()
    assert f"| 99.21 | {summary['train_top1']:.2f} |" in markdown and "data.limit=60" in markdown
    assert "fastgen reproduce table4" in markdown
    said = capfd.readouterr().out
    assert "99.21" in said and Path(tmp_path, "table4.html").is_file()
