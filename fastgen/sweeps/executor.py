"""Runs points, on this machine or on a cluster, and goes on where it was stopped.

Each point is a training in a process and a run directory of its own, named after what it is: a finished one is never
run again, an interrupted one continues from its checkpoint, a failing one is noted and the others go on.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fastgen.models import NETWORKS
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import RECIPE, decisive_settings
from fastgen.runs.run import Run
from fastgen.runs.summary import INTERRUPTED, Summary
from fastgen.sweeps.cluster import Cluster, ClusterLauncher
from fastgen.sweeps.grid import Point
from fastgen.sweeps.launchers import Launcher, LocalLauncher, Training
from fastgen.training.stopping import StopSignal
from pipelines.baked.bake import bake
from pipelines.corruptions import LabelSpec
from pipelines.errors import UserError

WAITING, QUEUED, RUNNING, DONE, FAILED = "waiting", "queued", "running", "done", "failed"
_POLL_SECONDS, _WATCH_SECONDS = 0.2, 1.0
_OF_WANDB = re.compile(r"^(\x1b\[[\d;]*m)*wandb(\x1b\[[\d;]*m)*:.*\n?", re.MULTILINE)
_LOCK_SECONDS = 20  # in which trainings that a killed sweep left behind should have ended


@dataclass
class Job:
    """A point and where it stands. folder: its run directory; problem: the last line that a failed one said, before
    what W&B says as a process ends."""

    point: Point
    folder: Path
    state: str = WAITING
    problem: str = ""

    @property
    def log(self) -> Path:
        return self.folder.parent / "logs" / f"{self.folder.name}.txt"

    @property
    def run(self) -> Run:
        """Its run directory as it is now."""
        return Run(self.folder)

    @property
    def summary(self) -> Summary | None:
        """Of a finished run, else None, also where it is damaged: `found_jobs` says so."""
        run = self.run
        try:
            return run.summary if run.finished else None
        except UserError:
            return None


def default_jobs() -> int:
    """On a CPU a training for each core; on a GPU one."""
    import torch  # seconds, for those alone who leave the number open

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def found_jobs(points: Iterable[Point], root: Path) -> list[Job]:
    """A job for each point: done where its run below `root` has finished, failed where what says so is damaged, else
    waiting. Runs nothing."""
    jobs = [Job(point, root / point.folder_name) for point in points]
    for job in jobs:
        run = job.run
        try:
            job.state = DONE if run.finished and _is_of(job.point, run) else WAITING
        except UserError as error:
            job.state, job.problem = FAILED, str(error)
    return jobs


def _is_of(point: Point, run: Run) -> bool:
    """Whether a finished run has the point's settings: a folder's name leaves out defaults, which may have changed. If
    not, the point is waiting, and is refused when it is started."""
    if not (run.folder / RECIPE).is_file():
        return False
    usual, wanted = Recipe().flat(), decisive_settings(point.load())
    return all(run.settings.get(key, usual.get(key)) == value for key, value in wanted.items())


def run_points(
    points: Iterable[Point],
    root: Path,
    jobs: int | None,
    watch: Callable[[list[Job]], None] = lambda jobs: None,
    cluster: Cluster | None = None,
) -> list[Job]:
    """Run all points that are not finished yet in folders below `root`; returns a job for each point.

    jobs: trainings at a time (None: on this machine `default_jobs`, each with its share of the cores; on a cluster as
    many as it runs). watch: called often with all jobs. What the points share (images, all their label columns) is
    baked first, once. Ctrl-C and SIGTERM let the running ones of this machine write their checkpoints, leave those of
    a cluster, and end with SystemExit. Raises UserError when another process works in `root`, or for mistakes that can
    be known before any training.
    """
    points = list(points)
    root.mkdir(parents=True, exist_ok=True)
    (root / "logs").mkdir(exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context(_locked(root))
        all_jobs = found_jobs(points, root)
        waiting = [job for job in all_jobs if job.state == WAITING]
        bake_together(waiting)
        waiting = [job for job in waiting if job.state == WAITING]
        if not waiting:
            watch(all_jobs)
            return all_jobs
        stop = stack.enter_context(StopSignal())
        if cluster is None:
            launcher: Launcher = _local(waiting, jobs or default_jobs(), lock)
        else:
            launcher = ClusterLauncher(cluster, root, jobs)
        try:
            with launcher:
                _run_all(waiting, launcher, stop, lambda: watch(all_jobs))
        finally:
            for job in all_jobs:
                job.state = WAITING if job.state in (RUNNING, QUEUED) else job.state
        watch(all_jobs)
        if stop.received is not None:
            raise SystemExit(128 + stop.received)
    return all_jobs


def _local(waiting: list[Job], jobs: int, lock: Path) -> LocalLauncher:
    cores = sorted(os.sched_getaffinity(0))
    jobs = min(jobs, len(waiting))
    return LocalLauncher(_modules(waiting), lock, [tuple(cores[i::jobs]) or tuple(cores) for i in range(jobs)])


def _run_all(jobs: list[Job], launcher: Launcher, stop: StopSignal, watch: Callable[[], None]) -> None:
    """Until all have ended, or a signal has come."""
    unfinished = {job.folder.name: job for job in jobs}
    waiting = [job for name, job in unfinished.items() if name not in launcher.running]
    watched = 0.0
    while unfinished and stop.received is None:
        while waiting and launcher.takes_more and stop.received is None:
            launcher.start(_training(waiting.pop(0)))
        for name, code in launcher.ended():
            if name in unfinished:  # and no other point's, which an earlier sweep left to the cluster
                _finish(unfinished.pop(name), code)
        for name in launcher.running & unfinished.keys():
            unfinished[name].state = QUEUED if name in launcher.queued else RUNNING
        if time.monotonic() - watched > _WATCH_SECONDS:
            watch()
            watched = time.monotonic()
        time.sleep(_POLL_SECONDS if unfinished and stop.received is None else 0)


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
        data, spec = recipe.data, replace(recipe.bake, columns=[*recipe.bake.columns, *labels])
        try:
            bake(data.source_spec, data.labels, data.pixels, spec, say=lambda text: print(text, flush=True))
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


def _training(job: Job) -> Training:
    return Training((f"recipe={job.point.recipe}", *job.point.settings), job.folder, job.log)


def _finish(job: Job, code: int) -> None:
    if code == 0 and job.summary is not None:
        job.state = DONE
        return
    job.state = FAILED
    text = job.log.read_text(errors="replace") if job.log.exists() else ""
    lines = (_OF_WANDB.sub("", text).strip() or text.strip()).splitlines()
    job.problem = lines[-1] if lines else f"exit code {code}"
    if code > 128 and job.run.state == INTERRUPTED:
        job.problem = "it was stopped, and left a checkpoint"
