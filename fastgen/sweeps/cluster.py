"""Trainings as jobs of SLURM, through submitit: one array, a job for each training.

Before a job's time is over it gets a signal; the training leaves a checkpoint, and the job queues itself again and goes
on there. Jobs need no sweep: where one ends, its jobs stay, and the next one in the same folder finds them by what is
written here of each.
"""

import getpass
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import psutil

from fastgen.sweeps.launchers import Training
from pipelines.durable import write_atomically
from pipelines.errors import UserError

if TYPE_CHECKING:
    import submitit

_MINUTES = 240  # of a job, where --slurm time= gives none; it is queued again after them
_SAVE_SECONDS = 120  # before the end of its time a job is told
_REQUEUES = 1000  # of a job. Each goes on from a checkpoint.
_LARGEST_ARRAY = 1000  # SLURM's own default (MaxArraySize)
_ASK_SECONDS = {"slurm": 5.0, "submitit": 0.5}  # between two questions what has become of the jobs
_UNSEEN = 3  # times that a job is neither known to SLURM nor has left a result: it has ended (files come late on NFS)


@dataclass(frozen=True)
class Cluster:
    """on: "slurm", or "submitit" for the same on this machine alone, by submitit's own processes. settings: options of
    sbatch, as they are written: key -> value; True for one that has no value. `time` is in minutes."""

    on: Literal["slurm", "submitit"]
    settings: dict[str, str | bool] = field(default_factory=dict)

    @staticmethod
    def parse(on: Literal["slurm", "submitit"], settings: list[str]) -> "Cluster":
        """Raises UserError for a setting that is none, for a missing submitit, and for a machine without SLURM."""
        pairs = [setting.removeprefix("--").partition("=") for setting in settings]
        cluster = Cluster(on, {key: value if equals else True for key, equals, value in pairs})
        if on == "submitit" and cluster.settings.keys() - {"time"}:
            raise UserError("--on submitit trains on this machine: of --slurm it knows time=MINUTES alone")
        if cluster.minutes < 1:
            raise UserError("--slurm time=MINUTES must be at least 1")
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise UserError(f"--on {on} needs submitit: pip install 'fastgen[slurm]'") from None
        if on == "slurm" and (missing := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]):
            raise UserError(
                f"--on slurm: there is no {missing[0]} on this machine; start it where SLURM's commands are, or leave "
                "--on out to train on this machine"
            )
        return cluster

    @property
    def minutes(self) -> int:
        """A job's time."""
        text = self.settings.get("time", str(_MINUTES))
        if not isinstance(text, str) or not text.isdecimal():
            raise UserError(f"--slurm time={text} must be a whole number of minutes; a longer training is queued again")
        return int(text)

    def executor(self, folder: Path, name: str, jobs: int | None) -> "submitit.Executor":
        """submitit's. folder: for what it writes. jobs: of an array at a time."""
        import submitit

        delay = min(_SAVE_SECONDS, self.minutes * 30)
        if self.on == "submitit":
            local = submitit.LocalExecutor(folder, max_num_timeout=_REQUEUES)
            local.update_parameters(timeout_min=self.minutes, signal_delay_s=delay)
            return local
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
        cores = self.settings.get("cpus-per-task")
        slurm.update_parameters(
            job_name=name,
            time=self.minutes,
            signal_delay_s=delay,
            array_parallelism=jobs or _LARGEST_ARRAY,
            additional_parameters={key: value for key, value in self.settings.items() if key != "time"},
            srun_args=[f"--cpus-per-task={cores}"] if cores else [],  # which srun does not take from sbatch
        )
        return slurm


class ClusterLauncher:
    """Trainings on a cluster, which outlive it. root: the sweep's folder. jobs: at a time (None: as SLURM decides)."""

    def __init__(self, cluster: Cluster, root: Path, jobs: int | None) -> None:
        self._cluster, self._jobs = cluster, jobs
        self._folder = root.resolve() / "logs" / cluster.on
        self._folder.mkdir(parents=True, exist_ok=True)
        self._executor = cluster.executor(self._folder, f"fastgen-{root.resolve().name}", jobs)
        self._register = self._folder / "jobs.json"
        self._new: list[Training] = []
        self._ids: dict[str, str] = json.loads(self._register.read_text()) if self._register.exists() else {}
        self._queued: frozenset[str] = frozenset()
        self._unseen: dict[str, int] = {}
        self._asked = 0.0
        known = self._known() or {}
        self._ids = {name: number for name, number in self._ids.items() if number in known}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ids:
            numbers = sorted({number.partition("_")[0] for number in self._ids.values()}, key=int)
            end = "scancel" if self._cluster.on == "slurm" else "kill"
            print(
                f"{len(self._ids)} trainings go on without this process: the same command watches them again, "
                f"{end} {' '.join(numbers)} ends them",
                file=sys.stderr,
            )

    @property
    def running(self) -> frozenset[str]:
        return frozenset(self._ids) | {training.name for training in self._new}

    @property
    def queued(self) -> frozenset[str]:
        return self._queued | {training.name for training in self._new}

    @property
    def takes_more(self) -> bool:
        """SLURM takes all at once, and keeps to the number itself. submitit's processes begin at once."""
        return self._cluster.on == "slurm" or len(self.running) < (self._jobs or 1)

    def start(self, training: Training) -> None:
        """It is submitted by the next call of `ended`, in one array with the others."""
        log, folder = training.log.resolve(), training.folder.resolve()
        self._new.append(replace(training, folder=folder, log=log))

    def ended(self) -> list[tuple[str, int]]:
        """A job that left no result (killed, or its node) has ended with 1, and its log says so."""
        self._submit()
        if time.monotonic() - self._asked < _ASK_SECONDS[self._cluster.on]:
            return []
        self._asked = time.monotonic()
        known = self._known()
        if known is None:  # it does not answer now
            return []
        self._queued = frozenset(name for name, number in self._ids.items() if known.get(number) == "PENDING")
        return [(name, code) for name in list(self._ids) if (code := self._code(name, known)) is not None]

    def _submit(self) -> None:
        """Raises UserError where SLURM refuses."""
        from submitit.core.utils import FailedJobError

        while self._new:
            some = self._new[:_LARGEST_ARRAY]
            try:
                with self._executor.batch():
                    jobs = [self._executor.submit(_Process(training)) for training in some]
            except FailedJobError as error:
                raise UserError(f"SLURM refuses the jobs as --slurm has them: {_last_line(error)}") from None
            self._ids |= {training.name: job.job_id for training, job in zip(some, jobs, strict=True)}
            write_atomically(self._register, json.dumps(self._ids, indent=1) + "\n")
            del self._new[: len(some)]

    def _known(self) -> dict[str, str] | None:
        """The state of each job that has not ended, as SLURM calls it; None where it gives no answer."""
        if self._cluster.on == "submitit":
            return {number: "RUNNING" for number in self._ids.values() if _is_submitit(int(number))}
        command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %T"]
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        return None if answer.returncode else dict(line.split() for line in answer.stdout.splitlines())

    def _code(self, name: str, known: dict[str, str]) -> int | None:
        """The exit code of a training that has ended, whose job is forgotten then."""
        from submitit.core.utils import JobPaths, pickle_load

        number = self._ids[name]
        paths = JobPaths(self._folder, number)
        if number in known:
            self._unseen.pop(name, None)
            return None
        code = 1
        if paths.result_pickle.exists():
            outcome, result = pickle_load(paths.result_pickle)
            code = result if outcome == "success" else 1
        elif (times := self._unseen.get(name, 0) + 1) < _UNSEEN:
            self._unseen[name] = times
            return None
        else:
            outcome = "nothing"
        if outcome != "success":
            with open(self._folder.parent / f"{name}.txt", "a") as log:
                log.write(f"job {number} ended without a result: {paths.stderr} has what it said\n")
        del self._ids[name]
        write_atomically(self._register, json.dumps(self._ids, indent=1) + "\n")
        return code


class _Process:
    """What a job does: `fastgen train` in a process of its own, which a signal to the job stops in good order."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def __call__(self) -> int:
        """Returns the exit code."""
        # SLURM sends its signals to all processes of a job: the one that is meant for submitit must not end this one.
        shell = ["sh", "-c", "trap '' USR1 USR2; exec \"$@\"", "sh"]
        command = [*shell, sys.executable, "-m", "fastgen.cli", "train", *self._training.begin()]
        with open(self._training.log, "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        signal.signal(signal.SIGTERM, lambda *_: self._process.terminate())
        # Waiting is a thread's, as a signal's handler, which waits too, interrupts the main one.
        self._has_ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()
        self._has_ended.wait()
        return self._process.returncode

    def _wait(self) -> None:
        self._process.wait()
        self._has_ended.set()

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """submitit calls it when the job's time is nearly over, or others need its machine."""
        from submitit.helpers import DelayedSubmission

        self._process.terminate()
        self._has_ended.wait()
        return DelayedSubmission(_Process(self._training))


def _is_submitit(number: int) -> bool:
    """Whether a process lives, and is one of submitit's."""
    try:
        process = psutil.Process(number)
        return process.status() != psutil.STATUS_ZOMBIE and any("submitit" in word for word in process.cmdline())
    except psutil.Error:
        return False


def _last_line(error: Exception) -> str:
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), "no reason given")
