"""fastgen report: what runs did, in HTML files that need no network, or as a W&B report."""

import re
from pathlib import Path
from urllib.parse import quote

from fastgen.report.groups import Group, grouped
from fastgen.report.main_result import main_result
from fastgen.report.page import Page
from fastgen.report.plots import loss_curves, parts_curves
from fastgen.report.tables import data_of, over_seeds, results
from fastgen.runs.dynamics import has_dynamics, parts_compared, per_sample
from fastgen.runs.folder import RECIPE
from fastgen.runs.run import Run, find_runs
from fastgen.sets import draw_samples
from pipelines.baked.manifest import BakedSet
from pipelines.errors import UserError
from pipelines.locations import outputs_root

_MOST_SECTIONS = 40  # runs of a page that are shown one by one
_MOST_CONDITIONS = 30  # whose losses are drawn
_MOST_FIGURES = 30  # of an index


def report(paths: list[Path], output: Path | None = None, wandb: bool = False) -> None:
    """Write a page about runs, or for those of several folders an index with a page for each. paths: run directories,
    or folders of them, however deep. output: an HTML file (None: reports/report.html
    below the folder of outputs).

    wandb: make a W&B report instead, and print its link. Raises UserError for mistakes.
    """
    if wandb:
        from fastgen.report import wandb_report

        if output:
            raise UserError("--output names a file, and with --wandb none is written; leave one of them out")
        print(wandb_report.publish(find_runs(paths)))
        return
    output = output or outputs_root() / "reports" / "report.html"
    if output.suffix != ".html":
        raise UserError(f"--output={output} must end in .html")
    groups = grouped(paths)
    output.parent.mkdir(parents=True, exist_ok=True)
    if len(groups) == 1:
        make_page(groups[0]).write(output)
    else:
        write_index(groups, output)
    pages = f", {len(groups)} pages in {output.stem}_pages" if len(groups) > 1 else ""
    count = len({run.folder for group in groups for run in group.variation.runs})
    print(f"{output}, {output.with_suffix('.md').name} and figures in {output.stem}_files{pages}: {count} runs")


def write_index(groups: list[Group], output: Path) -> None:
    """A page with a link to each group's and its main figure; the pages lie in a folder beside it."""
    folder = output.with_name(f"{output.stem}_pages")
    folder.mkdir(exist_ok=True)
    count = len({run.folder for group in groups for run in group.variation.runs})
    page = Page(f"{len(groups)} groups of {count} runs")
    files = _file_names([group.name for group in groups])
    links = [f"{quote(folder.name)}/{quote(file)}" for file in files]
    rows = [
        [group.name, group.variation.title, str(len(group.variation.runs)), _states(group.variation.runs)]
        for group in groups
    ]
    page.table(["folder", "recipe", "runs", "states"], rows, links)
    for number, (group, file, link) in enumerate(zip(groups, files, links, strict=True), start=1):
        make_page(group).write(folder / file)
        if number > _MOST_FIGURES:
            continue
        page.heading(group.name, link=link)
        page.text(f"{group.variation.title}: {_states(group.variation.runs)}.")
        for drawing in main_result(group.variation)[:1]:
            page.figure(f"group{number}", drawing.figure, drawing.caption)
    page.write(output)


def make_page(group: Group) -> Page:
    """The whole report of a group."""
    variation = group.variation
    page = Page(variation.title)
    page.text(f"{group.name}: {_states(variation.runs)}.")
    for drawing in main_result(variation) if len(variation.runs) > 1 else []:  # one has its curves below
        page.figure(drawing.name, drawing.figure, drawing.caption)
    if seeds := over_seeds(variation):
        page.heading("Over seeds")
        page.table(*seeds)
    page.heading("Runs")
    shown = variation.runs[:_MOST_SECTIONS]
    page.table(*results(variation), [f"#run{n}" if n <= len(shown) else "" for n in _numbers(variation.runs)])
    for name, line in group.logs.items():
        page.text(f"Of {name} there is a log and no run directory; it ends with: {line}")
    conditions = variation.by_setting()
    curves = {name: [run.curve("train_running_loss_nats", "step") for run in runs] for name, runs in conditions.items()}
    curves = {name or variation.title: lines for name, lines in curves.items() if any(steps for steps, _ in lines)}
    caption = "Training loss, averaged over the steps between two lines of the log"
    if len(curves) > _MOST_CONDITIONS:
        caption += f"; the first {_MOST_CONDITIONS} of {len(curves)} conditions"
    page.figure("loss", loss_curves(dict(list(curves.items())[:_MOST_CONDITIONS])), caption)
    samples = _Samples()
    for number, run, name in zip(_numbers(shown), shown, variation.names, strict=False):
        _run_section(page, number, name, run, samples)
    if len(variation.runs) > len(shown):
        rest = len(variation.runs) - len(shown)
        page.text(f"The other {rest} runs are not shown one by one; fastgen report RUN_DIR shows one.")
    return page


def _run_section(page: Page, number: int, name: str, run: Run, samples: "_Samples") -> None:
    page.heading(name, anchor=f"run{number}")
    page.code(run.command)
    page.text(f"Run directory: {run.folder}")
    page.table(*data_of(run))
    if parts := {text: curve for key, text in run.parts.items() if (curve := run.curve(key, "epoch"))[0]}:
        page.figure(f"run{number}", parts_curves(parts), f"{name}: accuracy on each part, in evaluation mode")
    else:
        page.text("Not evaluated yet.")
    if has_dynamics(run.folder):
        _dynamics(page, run)
    samples.show(page, run, name)
    page.code((run.folder / RECIPE).read_text(), folded="the whole recipe")


def _dynamics(page: Page, run: Run) -> None:
    try:
        page.table(*parts_compared(per_sample(run.folder)))
    except UserError as error:  # a run that has just begun has no whole epoch
        page.text(f"No dynamics of its samples: {error}.")


class _Samples:
    """Sheets of training images with their labels: equal ones are on the page once."""

    def __init__(self) -> None:
        self._sets: dict[str, BakedSet | None] = {}
        self._shown: dict[tuple[str, str | None], str] = {}

    def show(self, page: Page, run: Run, name: str) -> None:
        data, column = repr(run.manifest.specification), run.label_column
        if data not in self._sets:
            self._sets[data] = run.baked()
        baked = self._sets[data]
        if (data, column) in self._shown:
            page.text(f"Its sample images are those of {self._shown[data, column]}.")
        elif baked is None or column not in baked.splits["train"].names:
            page.text("Its baked set is no longer in the cache, so no sample images are shown.")
        else:
            self._shown[data, column] = name
            page.image(draw_samples(baked, column), "The first training images; under each its true -> given label")


def _numbers(runs: list[Run]) -> range:
    return range(1, len(runs) + 1)


def _states(runs: list[Run]) -> str:
    """Such as "7 finished, 1 diverged"."""
    states = [run.state for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _file_names(names: list[str]) -> list[str]:
    """A file's name for each group, all different."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "runs"
        while plain in found:
            plain += "-"
        found.append(plain)
    return [f"{name}.html" for name in found]
