"""fastgen report --wandb: the report as a W&B report, whose curves W&B draws from what the runs logged.

It names runs by the ids in their folders, so runs that logged offline appear in it as soon as they are synced.
Needs the extra `reports` (wandb-workspaces, whose Python interface is a preview;
https://docs.wandb.ai/ref/wandb_workspaces/reports).
"""

import contextlib
import importlib
import io
import json
import shlex
from types import ModuleType
from typing import Any

from fastgen.report.page import markdown_table
from fastgen.report.tables import data_of, over_seeds, results
from fastgen.report.variation import Variation
from fastgen.runs.folder import RECIPE, SAMPLES, WANDB_ID
from fastgen.runs.run import Run
from fastgen.runs.summary import metric
from pipelines.errors import UserError

_LONGEST_TITLE = 128  # characters: W&B refuses a longer one
_ACCURACY: dict[str, Any] = {"title_y": "accuracy (%)", "range_y": (0, 100)}  # of a plot


def publish(runs: list[Run]) -> str:
    """Make the report in the project of the runs; its link. Raises UserError where W&B refuses."""
    _package()
    import wandb

    project, named = where(runs)
    try:
        entity = named or wandb.Api().default_entity
        if not entity:
            raise UserError("W&B knows no entity to put the report in; train with track.entity=NAME, or `wandb login`")
        report = build(runs, project, entity)
        with contextlib.redirect_stderr(io.StringIO()):  # it prints the link, as the caller does
            report.save()
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise UserError(f"W&B did not take the report: {error}; is `wandb login` done, and is it reached?") from error
    for run in runs:
        if run.settings["track.wandb"] == "offline":
            print(f"logged offline; unless that is done: wandb sync {shlex.quote(str(run.folder))}/wandb/offline-run-*")
    return str(report.url)


def where(runs: list[Run]) -> tuple[str, str | None]:
    """Project and entity of the runs (None: the user's own). Raises UserError for runs of several, or not logged."""
    for run in runs:
        if not (run.folder / WANDB_ID).is_file():
            raise UserError(f"{run.folder} was not logged to W&B; train with track.wandb=online or offline")
    found = {(run.settings["track.project"], run.settings["track.entity"]) for run in runs}
    if len(found) > 1:
        raise UserError(f"a W&B report shows runs of one project, and these are of {sorted(map(str, found))}")
    return found.pop()


def build(runs: list[Run], project: str, entity: str) -> Any:
    """The report (wandb_workspaces.reports.v2.Report), not saved yet. Needs no network."""
    reports = _package()
    variation = Variation(runs)
    called = variation.title
    blocks = [reports.H1("Results"), reports.MarkdownBlock(markdown_table(*results(variation)))]
    if seeds := over_seeds(variation):
        blocks += [reports.H2("Over seeds"), reports.MarkdownBlock(markdown_table(*seeds))]
    blocks += [reports.H1("Learning curves"), _grid(reports, called, runs, _curves(reports))]
    for name, run in zip(variation.names, variation.runs, strict=True):
        blocks += [
            reports.H1(name),
            reports.MarkdownBlock(f"```\n{run.command}\n```"),
            reports.MarkdownBlock(markdown_table(*data_of(run))),
            _grid(reports, name, [run], _parts(reports, run)),
            reports.CodeBlock((run.folder / RECIPE).read_text(), language="yaml"),
        ]
    return reports.Report(
        project=project,
        entity=entity,
        title=called if len(called) <= _LONGEST_TITLE else called[: _LONGEST_TITLE - 1] + "…",
        description=f"{len(runs)} runs. The same without a network: fastgen report RUN...",
        width="fluid",
        blocks=blocks,
    )


def _grid(reports: ModuleType, name: str, runs: list[Run], panels: list[Any]) -> Any:
    # A run set without a project has the report's; with one, W&B would look it up over the network.
    ids = [(run.folder / WANDB_ID).read_text().strip() for run in runs]
    chosen = reports.Runset(name=name[:100], filters=f'Metric("ID") in {json.dumps(ids)}')
    return reports.PanelGrid(runsets=[chosen], panels=panels)


def _curves(reports: ModuleType) -> list[Any]:
    """All runs together, as figures 1a and 2 draw them."""
    loss, accuracies = ["train_running_loss_nats"], [metric("train_top1"), metric("test_top1")]
    left, right = _halves(reports)
    return [
        reports.LinePlot(
            title="Training loss", x="Step", y=loss, title_x="steps", title_y="average loss (nats)", layout=left
        ),
        reports.LinePlot(
            title="Accuracy: training and test", x="Step", y=accuracies, title_x="steps", layout=right, **_ACCURACY
        ),
    ]


def _parts(reports: ModuleType, run: Run) -> list[Any]:
    """One run: accuracy on the clean and on the corrupted part, and the sample images that it logged."""
    left, right = _halves(reports)
    title = "Accuracy on each part, in evaluation mode"
    images = "The first training images; under each its true -> given label"
    return [
        reports.LinePlot(title=title, x="epoch", y=list(run.parts), title_x="epoch", layout=left, **_ACCURACY),
        reports.MediaBrowser(title=images, media_keys=[SAMPLES], num_columns=1, layout=right),
    ]


def _halves(reports: ModuleType) -> tuple[Any, Any]:
    """Where two panels lie side by side."""
    return reports.Layout(x=0, y=0, w=12, h=9), reports.Layout(x=12, y=0, w=12, h=9)


def _package() -> ModuleType:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice
            return importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise UserError("--wandb needs wandb-workspaces: pip install 'fastgen[reports]'") from error
