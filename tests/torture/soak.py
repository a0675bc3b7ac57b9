"""A long training of a tiny set through each backend: memory, threads and open files must not grow with the epochs."""

import json
from functools import partial
from pathlib import Path

import psutil
from torture.forks import OK, Child
from torture.tasks import Found, Task
from whole_runs import SMALL

from fastgen.recipe.load import load
from fastgen.training.loop import train
from fastgen.training.watching import Watcher
from pipelines.backends import BACKENDS

# What may be added from the first fifth of the epochs to the last: MiB of fragments, threads and files of a stream that
# is just ending. What is kept of each epoch would be more.
_MOST = (24, 3, 3)


class _Sampler(Watcher):
    def __init__(self) -> None:
        self.process, self.samples = psutil.Process(), []

    def epoch(self, epoch: int) -> None:
        memory = self.process.memory_info()
        self.samples.append([(memory.rss - memory.shared) >> 20, self.process.num_threads(), self.process.num_fds()])


def tasks(epochs: int) -> list[Task]:
    return [Task("soak", backend, partial(_soak, backend, epochs)) for backend in BACKENDS if epochs]


def _soak(backend: str, epochs: int, folder: Path) -> Found:
    folder.mkdir(parents=True)
    found = folder / "samples.json"

    def work() -> None:
        sampler = _Sampler()
        settings = [*SMALL, f"data.backend={backend}", f"train.epochs={epochs}", f"run.dir={folder / 'run'}"]
        settings += ["train.threads=1", "run.checkpoint_minutes=0.05", "run.keep_checkpoints=2", "train.dynamics=true"]
        train(load("quickstart", settings), [sampler])
        found.write_text(json.dumps(sampler.samples))

    outcome = Child(work, folder / "log.txt", environment={"FASTGEN_CACHE": str(folder / "cache")}).wait(1200)
    if outcome.kind != OK:
        return {outcome.kind: 1}, [f"{backend}: {outcome.kind}: {outcome.said[-1500:]}"]
    samples = json.loads(found.read_text())
    fifth = max(1, epochs // 5)
    first, last = ([max(values) for values in zip(*part, strict=True)] for part in (samples[:fifth], samples[-fifth:]))
    names = ("MiB", "threads", "open files")
    said = ", ".join(f"{name} {then} -> {now}" for name, then, now in zip(names, first, last, strict=True))
    said = f"{backend} ({epochs} epochs: {said})"
    grows = any(now > then + most for then, now, most in zip(first, last, _MOST, strict=True))
    return {said: 1}, [f"grows: {said}"] if grows else []
