"""Runs points on this machine, one after another or several at a time, and goes on where it was stopped.

Each point is a training in a process and a run directory of its own, named after what it is: a finished one is never
run again, an interrupted one continues from its checkpoint, a failing one is noted and the others go on.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastgen.models import NETWORKS
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import RECIPE, decisive_settings
from fastgen.runs.run import Run
from fastgen.runs.summary import Summary
from fastgen.sweeps.grid import Point
from fastgen.sweeps.launchers import Launcher
from fastgen.training.stopping import StopSignal
from pipelines.baked.bake import bake
from pipelines.corruptions import LabelSpec
from pipelines.errors import UserError

WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"
_POLL_SECONDS, _WATCH_SECONDS = 0.2, 1.0
_LOCK_SECONDS = 20  # in which trainings that a killed sweep left behind should have ended


@dataclass
class Job:
    """A point and where it stands. folder: its run directory; problem: the last line that a failed one said."""

    point: Point
    folder: Path
    state: str = WAITING
    problem: str = ""
    cores: tuple[int, ...] = ()

    @property
    def log(self) -> Path:
        return self.folder.parent / "logs" / f"{self.folder.name}.txt"

    @property
    def run(self) -> Run:
        """Its run directory as it is now."""
        return Run(self.folder)

    @property
    def summary(self) -> Summary | None:
        """Of a finished run, else None."""
        run = self.run
        return run.summary if run.finished else None


def default_jobs() -> int:
    """On a CPU a training for each core; on a GPU one."""
    import torch  # seconds, for those alone who leave the number open

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def found_jobs(points: Iterable[Point], root: Path) -> list[Job]:
    """A job for each point: done where its run below `root` has finished, else waiting. Runs nothing."""
    jobs = [Job(point, root / point.folder_name) for point in points]
    for job in jobs:
        job.state = DONE if job.summary is not None and _is_of(job.point, job.run) else WAITING
    return jobs


def _is_of(point: Point, run: Run) -> bool:
    """Whether a finished run has the point's settings: a folder's name leaves out defaults, which may have changed. If
    not, the point is waiting, and is refused when it is started."""
    if not (run.folder / RECIPE).is_file():
        return False
    usual, wanted = Recipe().flat(), decisive_settings(point.load())
    return all(run.settings.get(key, usual.get(key)) == value for key, value in wanted.items())


def run_points(
    points: Iterable[Point], root: Path, jobs: int, watch: Callable[[list[Job]], None] = lambda jobs: None
) -> list[Job]:
    """Run all points that are not finished yet in folders below `root`; returns a job for each point.

    jobs: trainings at a time; each has its share of the cores. watch: called often with all jobs. What the points
    share (images, all their label columns) is baked first, once. Ctrl-C and SIGTERM let the running ones write
    their checkpoints, and end with SystemExit. Raises UserError when another process works in `root`, or for
    mistakes that can be known before any training.
    """
    points = list(points)
    root.mkdir(parents=True, exist_ok=True)
    (root / "logs").mkdir(exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))
    jobs = max(1, min(jobs, len(points)))
    with ExitStack() as stack:
        lock = stack.enter_context(_locked(root))
        all_jobs = found_jobs(points, root)
        waiting = [job for job in all_jobs if job.state == WAITING]
        bake_together(waiting)
        waiting = [job for job in waiting if job.state == WAITING]
        if not waiting:
            watch(all_jobs)
            return all_jobs
        free = [tuple(cores[i::jobs]) or tuple(cores) for i in range(jobs)]
        stop = stack.enter_context(StopSignal())
        running: dict[str, Job] = {}
        watched = 0.0
        try:
            with Launcher(_modules(waiting), lock) as launcher:
                while (waiting or running) and stop.received is None:
                    if time.monotonic() - watched > _WATCH_SECONDS:
                        watch(all_jobs)
                        watched = time.monotonic()
                    while waiting and free and stop.received is None:
                        job = waiting.pop(0)
                        _start(job, free.pop(0), launcher)
                        running[job.folder.name] = job
                    for name, code in launcher.ended():
                        job = running.pop(name)
                        free.append(job.cores)
                        _finish(job, code)
                    time.sleep(_POLL_SECONDS if running and stop.received is None else 0)
        finally:
            for job in running.values():
                job.state = WAITING
        watch(all_jobs)
        if stop.received is not None:
            raise SystemExit(128 + stop.received)
    return all_jobs


def bake_together(jobs: list[Job]) -> None:
    """One bake for each set of images, with the label columns of all points that use it.

    So that no training finds a file that another one is just adding a column to. Points whose images cannot be baked
    have failed, and the others go on; raises UserError where all points share such images.
    """
    groups: dict[str, tuple[Recipe, list[LabelSpec], list[Job]]] = {}
    for job in jobs:
        recipe = job.point.load()
        if recipe.data.shards is None:
            key = repr((recipe.data.source_spec, recipe.data.pixels, recipe.bake))
            _, labels, mine = groups.setdefault(key, (recipe, [], []))
            labels.append(recipe.data.labels)
            mine.append(job)
    for recipe, labels, mine in groups.values():
        recipe.bake.columns = [*recipe.bake.columns, *labels]
        data = recipe.data
        try:
            bake(data.source_spec, data.labels, data.pixels, recipe.bake, say=lambda text: print(text, flush=True))
        except UserError as error:
            if len(mine) == len(jobs):
                raise
            for job in mine:
                job.state, job.problem = FAILED, str(error)
                job.log.write_text(f"{error}\n")


@contextmanager
def _locked(root: Path) -> Iterator[Path]:
    """Keep other sweeps out of `root`; its lock file. After an exclusive lock this holds a shared one, as each training
    does, so those that outlive a killed sweep keep another one out until they have written their checkpoints."""
    path = root / ".lock"
    with open(path, "ab+") as file:
        for left in range(_LOCK_SECONDS * 10, -1, -1):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # fails if another came between the two
                break
            except BlockingIOError:
                if not left:
                    raise UserError(
                        f"another process is running points in {root}; wait for it, or name another folder"
                    ) from None
                time.sleep(0.1)
        yield path


def _modules(jobs: list[Job]) -> list[str]:
    """What all trainings import, and timm, which takes seconds, where one needs it."""
    of_timm = any(job.point.load().model.name not in NETWORKS for job in jobs)
    return ["fastgen.training.loop", "torch._dynamo", *(["timm"] if of_timm else [])]


def _start(job: Job, cores: tuple[int, ...], launcher: Launcher) -> None:
    resume = (job.folder / RECIPE).is_file()
    if not resume and job.folder.exists():
        shutil.rmtree(job.folder)  # it died before it had begun
    settings = [*job.point.settings, f"run.dir={job.folder}", *(["run.resume=true"] if resume else [])]
    launcher.start(job.folder.name, [f"recipe={job.point.recipe}", *settings], job.log, cores)
    job.state, job.cores = RUNNING, cores


def _finish(job: Job, code: int) -> None:
    if code == 0 and job.summary is not None:
        job.state = DONE
        return
    job.state = FAILED
    lines = job.log.read_text(errors="replace").strip().splitlines() if job.log.exists() else []
    job.problem = lines[-1] if lines else f"exit code {code}"
