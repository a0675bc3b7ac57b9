"""Reports of real runs: what they show is what the runs say, and a browser shows all of it."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
from whole_runs import SMALL, fresh_accelerate  # noqa: F401

from fastgen import cli
from fastgen.recipe.load import parse
from fastgen.runs.run import Run, find_runs
from fastgen.training.loop import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs that differ in their seeds, and one that was stopped before its end."""
    from accelerate.state import AcceleratorState

    folder = tmp_path_factory.mktemp("runs")
    common = ["recipe=quickstart", *SMALL, "data.labels.kind=partial", "data.labels.p=0.5", "track.log_steps=1"]
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


def test_it_says_what_the_runs_say(runs, page):
    text, markdown = page.read_text(), page.with_suffix(".md").read_text()
    for name in ("a", "b"):
        summary = json.loads((runs / name / "summary.json").read_text())
        for key in ("train_top1", "train_top1_corrupted_part", "test_top1"):
            assert f"| {summary[key]:,.2f} " in markdown and f"<td>{summary[key]:,.2f}</td>" in text
        assert summary["manifest_sha256"][:12] in text
    mean = sum(json.loads((runs / name / "summary.json").read_text())["test_top1"] for name in "ab") / 2
    assert f"{mean:.2f} ± " in markdown and "## Over seeds" in markdown
    assert "| c | random_0.5_s0 | fastgen_mlp_3x512 | 0 | not finished | - |" in markdown
    assert text.count("<svg") == 4 and text.count("data:image/png") == 3  # the loss, and each run's parts and samples
    assert not re.search(r'(src|href)="(https?:)?//', text) and "<script" not in text
    assert {path.name for path in (page.parent / "report_files").iterdir()} == {
        f"{name}.{kind}" for name in ("loss", "run1", "run2", "run3") for kind in ("svg", "png")
    }


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
  document.title = JSON.stringify(all);
};
</script>"""


def test_a_browser_shows_every_figure_and_table(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: apt-get install chromium")
    measured = tmp_path / "measured.html"
    text = page.read_text()
    measured.write_text(text.replace("</body>", _MEASURE + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1200,900"]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", measured.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    title = re.search(r"<title>(.*?)</title>", shown.stdout)
    sizes = json.loads(title[1].replace("&quot;", '"'))
    kinds = [kind for kind, *_ in sizes]
    assert (kinds.count("svg"), kinds.count("img"), kinds.count("table")) == (4, 3, text.count("<table>"))
    assert all(width > 200 and height > 40 for _, width, height in sizes)
    # The browser does tell of errors: this test would see one.
    measured.write_text(text.replace("</body>", "<script>nothing.here</script></body>"))
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" in shown.stderr
