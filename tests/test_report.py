"""Reports of real runs: what they show is what the runs say, and a browser shows all of it."""

import json
import re
import shlex
import shutil
import subprocess
from html import escape, unescape
from urllib.parse import unquote

import pytest
import yaml
from whole_runs import SMALL, a_summary, fresh_accelerate  # noqa: F401

from fastgen import cli
from fastgen.recipe.load import parse
from fastgen.report.groups import grouped
from fastgen.report.main_result import main_result
from fastgen.report.page import Page
from fastgen.report.plots import thinned
from fastgen.report.tables import over_seeds, results
from fastgen.report.variation import Variation
from fastgen.runs.dynamics import per_sample, separation
from fastgen.runs.run import Run, find_runs
from fastgen.training.loop import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs that differ in their seeds, and one that was stopped before its end."""
    from accelerate.state import AcceleratorState

    folder = tmp_path_factory.mktemp("runs")
    common = ["recipe=quickstart", *SMALL, "data.labels.kind=partial", "data.labels.p=0.5", "track.log_steps=1"]
    common.append("train.dynamics=true")
    for name, more in (("a", ["seed=0"]), ("b", ["seed=1", "data.labels.seed=1"]), ("c", ["optim.lr=0.01"])):
        AcceleratorState._reset_state(True)
        train(parse([*common, *more, f"run.dir={folder / name}"]))
    AcceleratorState._reset_state(True)
    (folder / "c" / "summary.json").unlink()
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert cli.main(["report", str(runs), "--output", str(path)]) == 0
    return path


def cells(lines: str) -> list[list[str]]:
    """The rows of the first table in Markdown, its header first."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] != "---"]


def test_it_says_what_the_runs_say(runs, page):
    text, markdown = page.read_text(), page.with_suffix(".md").read_text()
    for name in ("a", "b"):
        summary = json.loads((runs / name / "summary.json").read_text())
        for key in ("train_top1", "train_top1_corrupted_part", "test_top1"):
            assert f"| {summary[key]:,.2f} " in markdown and f">{summary[key]:,.2f}</td>" in text
        assert summary["manifest_sha256"][:12] in text
    mean = sum(json.loads((runs / name / "summary.json").read_text())["test_top1"] for name in "ab") / 2
    assert f"{mean:.2f} ± " in markdown and "## Over seeds" in markdown
    header, *rows = cells(markdown[markdown.index("## Runs") :])
    assert header[:4] == ["optim.lr", "seed", "state", "epochs"]
    assert [row[:4] for row in rows[:3]] == [
        ["0.01", "0", "not finished", "4"], ["0.05", "0", "finished", "4"], ["0.05", "1", "finished", "4"]
    ]  # fmt: skip
    last = Run(runs / "c").last_line("test_top1_percent")
    assert rows[0][header.index("test (%)")] == f"{last['test_top1_percent']:.2f}"
    headings = [line for line in markdown.splitlines() if line.startswith("#")]
    assert headings == [
        "# quickstart over optim.lr, seed", "## Over seeds", "## Runs", "## optim.lr=0.01 seed=0",
        "## optim.lr=0.05 seed=0", "## optim.lr=0.05 seed=1",
    ]  # fmt: skip
    assert "1 run not finished, hollow" in text and f"{runs.name}: 1 not finished, 2 finished." in text
    # Accuracy, loss, and each run's parts; runs of one labelling share their samples.
    assert text.count("<svg") == 5 and text.count("data:image/png") == 2
    area = separation(per_sample(runs / "a"))["aum"]
    assert re.search(rf"\| aum \| \S+ \| \S+ \| {area:.3f} \|", markdown) and markdown.count("AUROC") == 3
    assert "Its sample images are those of optim.lr=0.01 seed=0." in text
    assert not re.search(r'(src|href)="(https?:)?//', text) and "<script" not in text
    assert all(f'id="{link}"' in text for link in re.findall(r'href="#(run\d)"', text))
    assert {path.name for path in (page.parent / "report_files").iterdir()} == {
        f"{name}.{kind}" for name in ("accuracy", "loss", "run1", "run2", "run3") for kind in ("svg", "png")
    }


def made(folder, settings, results=None, lines=()):
    """A run directory of `settings`; results: of its summary, None while it has not ended."""
    folder.mkdir(parents=True)
    recipe = parse(["recipe=quickstart", *settings] if settings[:1] != ["other"] else [f"recipe={settings[1]}"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "manifest.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if results is not None:
        a_summary(recipe=recipe.recipe, seed=recipe.seed, **results).write(folder)
    return Run(folder)


P = "data.labels.p={}".format


@pytest.mark.parametrize(
    ("settings", "keys", "axis", "names"),
    [
        (  # numbers by size, seeds last
            [[P(1.0), "seed=10"], [P(0.1), "seed=2"], [P(1.0), "seed=2"], [P(1e-05), "seed=2"]],
            ["data.labels.p", "seed"],
            "data.labels.p",
            [f"data.labels.p={p} seed={seed}" for p, seed in (("1e-05", 2), ("0.1", 2), ("1", 2), ("1", 10))],
        ),
        (  # one that follows from another is no column: true labels have no level
            [["data.labels.kind=true"], [P(0.5)]],
            ["data.labels.kind"],
            "data.labels.p",
            ["data.labels.kind=random", "data.labels.kind=true"],
        ),
        ([["seed=1", "data.labels.seed=1"], []], ["seed"], None, ["seed=0", "seed=1"]),
        (  # text with numbers by their size, and the axis behind it
            [[f"model.name=resnet{n}", f"optim.lr={lr}"] for lr in (0.1, 0.02) for n in (101, 18)],
            ["model.name", "optim.lr"],
            "optim.lr",
            [f"model.name=resnet{n} optim.lr={lr}" for n in (18, 101) for lr in (0.02, 0.1)],
        ),
        (  # how and where a run is watched decides nothing; equal ones are told apart by their folders
            [["train.threads=1"], ["track.log_steps=7"]],
            ["run"],
            None,
            ["0", "1"],
        ),
        (  # of several recipes, what varies within one
            [["other", "cifar10_mlp_1x512_true"], [P(0.5)], [P(0.25)]],
            ["recipe", "data.labels.p"],
            "data.labels.p",
            ["cifar10_mlp_1x512_true", "quickstart data.labels.p=0.25", "quickstart data.labels.p=0.5"],
        ),
        (  # the key with the most values is drawn against, where the level does not vary
            [[f"optim.lr={lr}", f"data.batch_size={b}"] for lr in (0.1, 0.2, 0.3) for b in (32, 64)],
            ["data.batch_size", "optim.lr"],
            "optim.lr",
            [f"data.batch_size={b} optim.lr={lr}" for b in (32, 64) for lr in (0.1, 0.2, 0.3)],
        ),
    ],
)
def test_runs_are_named_and_ordered_by_what_varies(settings, keys, axis, names, tmp_path):
    variation = Variation([made(tmp_path / str(n), one) for n, one in enumerate(settings)])
    assert (variation.keys, variation.axis, variation.names) == (keys, axis, names)


def accuracy(p, seed):
    return {"train_top1": 100.0, "test_top1": 90.0 - 50 * p + seed, "best_test_top1": 92.0, "fitted_epoch": 7.0}


@pytest.fixture
def a_sweep(tmp_path):
    """Levels in no order, three seeds, of which one diverged and one goes on; and one of another labelling."""
    folder = tmp_path / "sweep"
    for number, p in enumerate((1.0, 0.2, 0.6)):
        for seed in (0, 1, 2):
            settings = [P(p), f"seed={seed}", "data.labels.kind=random"]
            line = {"step": 5, "epoch": 2.5, "wall_seconds": 3.0, "train_top1_percent": 50.0, "test_top1_percent": 30.0}
            end = {"step": 6, "epoch": 3.0, "wall_seconds": 4.0, "diverged": 1}
            open_lines = {(1.0, 1): [line], (0.6, 2): [line, end]}.get((p, seed))
            made(folder / f"{number}{seed}", settings, None if open_lines else accuracy(p, seed), open_lines or ())
    (folder / "logs").mkdir()
    (folder / "logs" / "quickstart-x.txt").write_text("starting\nfastgen: no room\n")
    (folder / "logs" / "00.txt").write_text("it went well\n")
    return folder


def test_a_sweep_is_drawn_against_its_key_with_seeds_as_a_band(a_sweep):
    variation = Variation(find_runs([a_sweep]))
    (drawing,) = main_result(variation)
    (axes,) = drawing.figure.axes
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["training, given labels", "test", "best test"]
    assert lines["test"].get_xydata().tolist() == [[0.2, 81.0], [0.6, 60.5], [1.0, 41.0]]
    band = axes.collections[1].get_paths()[0].vertices
    assert {tuple(point) for point in band.tolist()} == {
        (0.2, 80.0), (0.2, 82.0), (0.6, 60.0), (0.6, 61.0), (1.0, 40.0), (1.0, 42.0)
    }  # fmt: skip
    hollow = [line.get_xydata().tolist() for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [[[1.0, 50.0]], [[1.0, 30.0]], [[1.0, 30.0]]]
    assert axes.get_xlabel() == "data.labels.p (label corruption)" and axes.get_xscale() == "linear"
    for text in ("bands reach from the lowest", "1 run not finished, hollow", "1 run diverged, not drawn"):
        assert text in drawing.caption
    header, rows = results(variation)
    assert header == [
        "data.labels.p", "seed", "state", "epochs", "fitted at epoch", "training (%)", "test (%)", "best test (%)",
        "images/s", "minutes",
    ]  # fmt: skip
    assert [row[:3] for row in rows] == [
        [p, str(seed), {("0.6", 2): "diverged", ("1", 1): "not finished"}.get((p, seed), "finished")]
        for p in ("0.2", "0.6", "1") for seed in (0, 1, 2)
    ]  # fmt: skip
    assert rows[7] == ["1", "1", "not finished", "2.5", "-", "50.00", "30.00", "30.00", "-", "0.05"]
    header, rows = over_seeds(variation)
    spread = [[*row[:2], row[header.index("test (%)")]] for row in rows]
    assert spread == [
        ["0.2", "3", "81.00 ± 1.00"],
        ["0.6", "2 of 3 finished", "60.50 ± 0.71"],
        ["1", "2 of 3 finished", "41.00 ± 1.41"],
    ]


ACCURACIES = ["training, given labels", "test", "best test"]


@pytest.mark.parametrize(
    ("settings", "panels", "lines", "scale"),
    [
        (  # a line for each model, a panel for each accuracy
            [[f"model.name=resnet{n}", f"optim.lr={lr}"] for lr in (0.001, 0.1) for n in (50, 18)],
            ACCURACIES,
            ["model.name=resnet18", "model.name=resnet50"],
            "log",
        ),
        ([["data.labels.kind=true"], [P(0.5)], [P(1)]], [""], ACCURACIES, "linear"),
        ([["model.name=resnet18"], ["model.name=resnet50"]], [""], ACCURACIES, None),
    ],
)
def test_what_the_main_figure_shows(settings, panels, lines, scale, tmp_path):
    variation = Variation([made(tmp_path / str(n), one, accuracy(0, n)) for n, one in enumerate(settings)])
    drawing, *others = main_result(variation)
    axes = drawing.figure.axes
    assert [one.get_title() for one in axes] == panels and not others
    shown = [line.get_label() for line in axes[0].lines]
    assert [label for label in shown if not label.startswith("_")] == lines
    if scale is None:  # no number varies: by their names
        assert [label.get_text() for label in axes[0].get_yticklabels()] == variation.names
        assert [line.get_xdata().tolist() for line in axes[0].lines if line.get_label() == "test"] == [[90.0, 91.0]]
    else:
        assert axes[0].get_xscale() == scale


def test_long_names_leave_room(tmp_path, recwarn):
    long = ["schedule.kind=cosine", "train.stop_at_interpolation=false", "data.augment.random_crop=true"]
    runs = [made(tmp_path / str(n), one, accuracy(0, n)) for n, one in enumerate(([], [*long, "optim.name=adamw"]))]
    assert main_result(Variation(runs))[0].name == "accuracies"  # no number varies
    for drawing in main_result(Variation(runs)):
        page = Page("names")
        page.figure(drawing.name, drawing.figure, drawing.caption)
        labels = [label.get_text().split("\n") for label in drawing.figure.axes[0].get_yticklabels()]
    assert not recwarn.list and max(map(len, labels)) == 3
    assert all(len(line) <= 48 for lines in labels for line in lines)


def test_true_labels_are_level_0(tmp_path):
    runs = [made(tmp_path / "t", ["data.labels.kind=true"], accuracy(0, 0)), made(tmp_path / "r", [], accuracy(1, 0))]
    (drawing,) = main_result(Variation(runs))
    assert drawing.figure.axes[0].lines[2].get_xydata().tolist() == [[0.0, 90.0], [1.0, 40.0]]


def test_a_sweep_in_a_folder_for_each_value_is_drawn_together(tmp_path):
    for p in (0.25, 0.5):
        for seed in (0, 1):
            made(tmp_path / f"p{p}" / f"s{seed}", [P(p), f"seed={seed}"], accuracy(p, seed))
    groups = grouped([tmp_path])
    assert [group.name for group in groups] == ["all together", "p0.25", "p0.5"]
    assert groups[0].variation.axis == "data.labels.p" and len(groups[0].variation.runs) == 4


def test_labels_whose_table_is_gone(runs, tmp_path):
    shutil.copytree(runs / "a", tmp_path / "a")
    table = tmp_path / "labels.txt"
    recipe = yaml.safe_load((tmp_path / "a" / "recipe.yaml").read_text())
    recipe["data"]["labels"] |= {"kind": "table", "p": None, "file": str(table)}
    (tmp_path / "a" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert Run(tmp_path / "a").settings["data.labels.file"] == str(table)
    assert cli.main(["report", str(tmp_path / "a"), "--output", str(tmp_path / "a.html")]) == 0
    assert f"{table}, which is not there any more" in (tmp_path / "a.md").read_text()


def test_a_page_is_bounded(tmp_path):
    page = Page("long")
    page.table(["n"], [[str(n)] for n in range(2000)])
    page.write(tmp_path / "long.html")
    text, markdown = (tmp_path / "long.html").read_text(), (tmp_path / "long.md").read_text()
    assert text.count("<tr>") == 501 and "The first 500 of 2,000 rows" in text and "| 1999 |" in markdown
    x, y = thinned((list(map(float, range(100_000))), list(map(float, range(100_000)))))
    assert len(x) == len(y) == 200 and (x[0], x[-1]) == (0, 99_999) and thinned((x, y)) == (x, y)


def test_several_folders_make_an_index(runs, a_sweep, tmp_path, capsys):
    whole = tmp_path / "all of it"
    shutil.copytree(runs, whole / "deep" / "er #1%" / "noise")
    shutil.copytree(runs, whole / "deep" / "other" / "noise")
    (whole / "circle").symlink_to(whole.parent)
    (whole / "again").symlink_to(whole / "deep" / "other")
    output = tmp_path / "out" / "my index.html"
    assert cli.main(["report", str(whole), str(runs / "a"), str(whole / "deep/other"), "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith("3 pages in my index_pages: 7 runs\n")
    text, markdown = output.read_text(), output.with_suffix(".md").read_text()
    assert [row[:4] for row in cells(markdown)[1:4]] == [
        ["other/noise", "quickstart over optim.lr, seed", "3", "1 not finished, 2 finished"],
        ["er #1%/noise", "quickstart over optim.lr, seed", "3", "1 not finished, 2 finished"],
        ["runs", "quickstart", "1", "1 finished"],
    ]
    links = list(dict.fromkeys(re.findall(r'href="([^"#]+)"', text)))
    pages = [output.parent / unquote(link) for link in links]
    assert [path.name for path in pages] == ["other-noise.html", "er-1-noise.html", "runs.html"]
    assert all("<h1>quickstart" in path.read_text() for path in pages)
    assert text.count("<svg") == 3 and "<script" not in text


def test_its_command_is_the_same_recipe(runs):
    for run in find_runs([runs]):
        words = shlex.split(run.command)
        assert words[:2] == ["fastgen", "train"]
        again = parse(words[2:]).flat()
        assert {k: v for k, v in again.items() if not k.startswith(("run.", "track."))} == {
            k: v for k, v in run.settings.items() if not k.startswith(("run.", "track."))
        }


@pytest.mark.parametrize(
    ("name", "settings", "changes"),
    [
        ("quickstart", [], []),
        ("quickstart", ["data.labels.kind=partial", "data.labels.p=0.4"], ["data.labels.p=0.4"]),
        ("quickstart", ["data.labels.kind=true"], ["data.labels.kind=true"]),
        ("quickstart", ["data.labels.kind=pair", "data.labels.p=1"], ["data.labels.kind=pair", "data.labels.p=1.0"]),
        ("quickstart", ["data.pixels.kind=patches"], ["data.pixels.kind=patches"]),
        ("cifar10_mlp_1x512_true", ["data.labels.kind=random"], ["data.labels.kind=random"]),
        (
            "cifar10_mlp_1x512_true",
            ["data.labels.kind=partial", "data.labels.p=0.4"],
            ["data.labels.kind=random", "data.labels.p=0.4"],
        ),
        (
            "cifar10_mlp_1x512_partial",  # whose level true labels must not have
            ["data.labels.kind=true", "data.labels.p=null"],
            ["data.labels.kind=true", "data.labels.p=null"],
        ),
    ],
)
def test_changes_are_what_one_has_to_write(name, settings, changes, tmp_path):
    recipe = parse([f"recipe={name}", *settings])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    run = Run(tmp_path)
    assert run.changes == changes
    again = parse(shlex.split(run.command)[2:])
    again.run.name = recipe.run.name  # which tells how it was written
    assert again == recipe


def test_a_recipe_that_is_not_shipped_is_run_again_from_its_run(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: quickstart\nseed: 5\n")
    recipe = parse([f"recipe={tmp_path / 'mine.yaml'}", "data.limit=7"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert parse(shlex.split(Run(tmp_path).command)[2:]) == recipe and recipe.recipe == "mine"


def test_a_set_that_is_gone_and_mistakes(runs, page, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path / "empty"))
    assert Run(runs / "a").baked() is None
    assert cli.main(["report", str(runs / "a"), "--output", str(tmp_path / "one.html")]) == 0
    assert "no longer in the cache" in (tmp_path / "one.md").read_text()
    monkeypatch.undo()
    shutil.copytree(runs / "a", tmp_path / "other")
    recipe = tmp_path / "other" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("p: 0.5", "p: 0.25"))  # no such column was baked
    assert cli.main(["report", str(tmp_path / "other"), "--output", str(tmp_path / "other.html")]) == 0
    assert "no longer in the cache" in (tmp_path / "other.md").read_text()
    capsys.readouterr()
    for arguments, message in (
        ([], "Missing argument 'RUN'"),
        ([str(tmp_path / "empty")], "is no run directory and contains none"),
        ([str(runs), "--output", "report.pdf"], "must end in .html"),
    ):
        assert cli.main(["report", *arguments]) == 2
        assert message in capsys.readouterr().err


_MEASURE = """<script>
window.onload = () => {
  const size = e => { const b = e.getBoundingClientRect(); return [e.tagName.toLowerCase(), b.width, b.height]; };
  const all = [...document.querySelectorAll('figure svg, figure img, table')].map(size);
  const root = document.documentElement, wide = [...document.querySelectorAll('.wide')];
  const cut = wide.filter(e => e.scrollWidth > e.clientWidth).length;
  const found = {all, width: innerWidth, overflow: root.scrollWidth - root.clientWidth, cut};
  parent.document.title = JSON.stringify(found);
};
</script>"""


def browser_says(html, width, tmp_path):
    """What the browser logs of a page in a window so wide, and what `_MEASURE` found. Chromium's own is never as narrow
    as a phone's, so the page is in a frame."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: apt-get install chromium")
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{escape(html)}"></iframe>'
    (tmp_path / "framed.html").write_text(f"<!doctype html><meta charset=utf-8><title></title>{frame}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1400,900"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    shown = subprocess.run(
        [browser, *options, (tmp_path / "framed.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    return shown.stderr, json.loads(unescape(title[1])) if title[1] else None


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_figure_and_table(page, width, tmp_path):
    text = page.read_text()
    log, found = browser_says(text.replace("</body>", _MEASURE + "</body>"), width, tmp_path)
    assert "CONSOLE" not in log, log
    kinds = [kind for kind, *_ in found["all"]]
    assert (kinds.count("svg"), kinds.count("img"), kinds.count("table")) == (5, 2, text.count("<table>"))
    assert all(wide > 200 and high > 40 for _, wide, high in found["all"])
    assert found["width"] == width and found["overflow"] == 0
    assert (found["cut"] > 0) == (width == 390)  # wide tables scroll inside themselves, and fit a screen
    # The browser does tell of errors: this test would see one.
    log, _ = browser_says(text.replace("</body>", "<script>nothing.here</script></body>"), width, tmp_path)
    assert "CONSOLE" in log
