"""fastgen report: what runs did, in one HTML file that needs no network, or as a W&B report."""

from pathlib import Path

from fastgen.report.page import Page
from fastgen.report.plots import loss_curves, parts_curves
from fastgen.report.tables import data_of, names, over_seeds, results, title
from fastgen.runs.folder import RECIPE
from fastgen.runs.run import Run, find_runs
from fastgen.sets import draw_samples
from pipelines.errors import UserError
from pipelines.locations import outputs_root


def report(paths: list[Path], output: Path | None = None, wandb: bool = False) -> None:
    """Write a page about runs. paths: run directories, or folders of them. output: an HTML file (None:
    reports/report.html below the folder of outputs).

    wandb: make a W&B report instead, and print its link. Raises UserError for mistakes.
    """
    runs = find_runs(paths)
    if wandb:
        from fastgen.report import wandb_report

        if output:
            raise UserError("--output names a file, and with --wandb none is written; leave one of them out")
        print(wandb_report.publish(runs))
        return
    output = output or outputs_root() / "reports" / "report.html"
    if output.suffix != ".html":
        raise UserError(f"--output={output} must end in .html")
    output.parent.mkdir(parents=True, exist_ok=True)
    make_page(runs).write(output)
    print(f"{output}, {output.with_suffix('.md').name} and figures in {output.stem}_files: {len(runs)} runs")


def make_page(runs: list[Run]) -> Page:
    """The whole report."""
    page = Page(title(runs))
    page.table(*results(runs))
    if seeds := over_seeds(runs):
        page.heading("Over seeds")
        page.table(*seeds)
    curves = {name: run.curve("train_running_loss_nats", "step") for name, run in zip(names(runs), runs, strict=True)}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    page.figure("loss", loss_curves(curves), "Training loss, averaged over the steps between two lines of the log")
    for number, (name, run) in enumerate(zip(names(runs), runs, strict=True), start=1):
        _run_section(page, number, name, run)
    return page


def _run_section(page: Page, number: int, name: str, run: Run) -> None:
    page.heading(name)
    page.code(run.command)
    page.table(*data_of(run))
    if parts := {text: curve for key, text in run.parts.items() if (curve := run.curve(key, "epoch"))[0]}:
        page.figure(f"run{number}", parts_curves(parts), f"{name}: accuracy on each part, in evaluation mode")
    else:
        page.text("Not evaluated yet.")
    baked, column = run.baked(), run.labels.column_name
    if baked is None or column not in baked.splits["train"].names:
        page.text("Its baked set is no longer in the cache, so no sample images are shown.")
    else:
        images = draw_samples(baked, column)
        page.image(images, "The first training images; under each its true -> given label")
    page.code((run.folder / RECIPE).read_text(), folded="the whole recipe")
