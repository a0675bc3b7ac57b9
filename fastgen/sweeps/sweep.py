"""fastgen sweep: one recipe at all combinations of some keys' values, with one live table."""

import csv
import hashlib
import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.live import Live
from rich.table import Table

from fastgen.runs.summary import metric
from fastgen.sweeps.cluster import Cluster
from fastgen.sweeps.executor import DONE, FAILED, RUNNING, Job, run_points
from fastgen.sweeps.grid import Grid
from fastgen.terminal import console
from pipelines.durable import write_atomically
from pipelines.locations import outputs_root

_KNOWN = ("epoch", "training", "test", "fitted at epoch")  # what the table says of a run
_RESULTS = ("train_top1", "test_top1", "interpolation_epoch", "fitted_epoch", "epochs", "wall_seconds")


def sweep(
    settings: list[str],
    jobs: int | None = None,
    output: Path | None = None,
    wandb_file: Path | None = None,
    cluster: Cluster | None = None,
) -> None:
    """Train all points of a grid. settings: recipe=NAME key=value key=a,b,c ... jobs: trainings at a time (None: as
    `run_points` has it). output: a folder (None: named after the points). wandb_file: write the grid there as a W&B
    sweep, and train nothing. cluster: where to train (None: on this machine). Raises UserError for mistakes, and
    SystemExit(1) at the end when points failed.
    """
    grid = Grid.parse(settings)
    points = grid.points
    if wandb_file:
        write_atomically(wandb_file, wandb_sweep(grid))
        print(f"wandb sweep {wandb_file} creates it; then `wandb agent SWEEP` on any number of machines")
        return
    names = hashlib.sha256(" ".join(point.folder_name for point in points).encode()).hexdigest()[:6]
    root = output or outputs_root() / "sweeps" / f"{Path(grid.recipe).stem}-{names}"
    with LiveTable(list(grid.varied), lambda job: list(grid.label(job.point).values())) as live:
        done = run_points(points, root, jobs, live.show, cluster)
    write_atomically(root / "results.csv", results_csv(grid, done))
    print(f"{root}: {sum(job.state == DONE for job in done)} of {len(done)} points done; {root / 'results.csv'}")
    if any(job.folder.is_dir() for job in done):
        print(f"what they did: {shlex.join(['fastgen', 'report', str(root)])}")
    tell_failures(done)


def tell_failures(jobs: list[Job]) -> None:
    """Raises SystemExit(1) after naming each failed point."""
    failed = [job for job in jobs if job.state == FAILED]
    for job in failed:
        log = f" (all of it: {job.log})" if job.log.exists() else ""
        print(f"failed: {job.folder}: {job.problem}{log}", file=sys.stderr)
    if failed:
        print("once that is mended, the same command runs the failed points, and no finished one", file=sys.stderr)
        raise SystemExit(1)


def wandb_sweep(grid: Grid) -> str:
    """The grid as a W&B sweep file (its grid search; agents start `python -m fastgen.cli train`).

    Values are text: an agent writes others as Python does, None and True, which are other values in a recipe.
    """
    parameters = {key: {"values": values} for key, values in grid.varied.items()}
    command = ["${env}", "python", "-m", "fastgen.cli", "train", f"recipe={grid.recipe}", "track.wandb=online"]
    sweep = {
        "program": "fastgen",
        "method": "grid",
        "metric": {"name": "test_top1_percent", "goal": "maximize"},
        "parameters": parameters,
        "command": [*command, *grid.fixed, "${args_no_hyphens}"],
    }
    return yaml.safe_dump(sweep, sort_keys=False)


def results_csv(grid: Grid, jobs: list[Job]) -> str:
    """A line for each point: its keys, its state, and what summary.json says."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*grid.varied, "state", *_RESULTS, "run_dir"])
    for job in jobs:
        results = [getattr(job.summary, key, None) for key in _RESULTS]  # None: an empty cell
        writer.writerow([*grid.label(job.point).values(), job.state, *results, job.folder])
    return out.getvalue()


class LiveTable:
    """All points with their states and results: redrawn on a terminal, elsewhere a line for each change.

    columns, label: headings, and a job's texts below them.
    """

    def __init__(self, columns: list[str], label: Callable[[Job], list[str]]) -> None:
        self._columns, self._label = columns, label
        self._console = console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._states: dict[str, str] = {}

    def __enter__(self) -> "LiveTable":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, jobs: list[Job]) -> None:
        if self._live:
            self._live.update(self._table(jobs), refresh=True)
        for job in jobs:
            if self._states.get(job.folder.name) != job.state:
                self._states[job.folder.name] = job.state
                if not self._live:
                    values = [f"{key}={value}" for key, value in zip(self._columns, self._label(job), strict=True)]
                    known = zip(_KNOWN, self._known(job), strict=True)
                    told = [job.problem] if job.state == FAILED else [f"{what} {text}" for what, text in known if text]
                    print(", ".join([" ".join([job.state, *values]), *told]), flush=True)

    def _table(self, jobs: list[Job]) -> Table:
        table = Table(*self._columns, "state", *_KNOWN)
        for job in jobs:
            style = {RUNNING: "bold", FAILED: "red", DONE: "green"}.get(job.state)
            table.add_row(*self._label(job), job.state, *self._known(job), style=style)
        return table

    def _known(self, job: Job) -> list[str]:
        """Epoch, training and test accuracy, epoch of interpolation; of the last evaluation while it runs."""
        if job.state == FAILED:
            return ["", job.problem[:60], "", ""]
        if summary := job.summary:
            epoch, train, test = summary.epochs, summary.train_top1, summary.test_top1
            fitted = summary.fitted_epoch
        elif (line := job.run.last_line(metric("train_top1"))) and job.state == RUNNING:
            epoch, train, test, fitted = line["epoch"], line[metric("train_top1")], line[metric("test_top1")], None
        else:
            return ["", "", "", ""]
        return [
            f"{epoch:g}",
            "" if train is None else f"{train:.2f} %",
            "" if test is None else f"{test:.2f} %",
            f"{fitted:g}" if fitted else "",
        ]
