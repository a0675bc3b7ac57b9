"""Attacks in processes of their own, some at a time, and the count of what came of them."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torture.forks import Child

Found = tuple[dict[str, int], list[str]]  # how often each outcome came, and the faults in words


@dataclass(frozen=True)
class Task:
    """attack: the kind that it is counted with. work: attacks in a folder that is not there yet."""

    attack: str
    name: str
    work: Callable[[Path], Found]


@dataclass
class Tally:
    """What came of one kind of attack."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def run(tasks: list[Task], jobs: int, folder: Path) -> dict[str, Tally]:
    """Do all tasks, `jobs` at a time. Faults are printed as they come."""
    tallies: dict[str, Tally] = {}
    waiting, running = list(enumerate(tasks)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, task = waiting.pop(0)
            running[number] = (task, _start(task, folder / f"task-{number}"))
        for number, (task, child) in list(running.items()):
            if child.has_ended():
                del running[number]
                _count(tallies.setdefault(task.attack, Tally()), task, child, folder / f"task-{number}")
        time.sleep(0.02)
    return tallies


def _start(task: Task, folder: Path) -> Child:
    folder.mkdir(parents=True)

    def work() -> None:
        (folder / "result.json").write_text(json.dumps(task.work(folder / "work")))

    return Child(work, folder / "log.txt")


def _count(tally: Tally, task: Task, child: Child, folder: Path) -> None:
    result = folder / "result.json"
    if result.exists():
        outcomes, faults = json.loads(result.read_text())
    else:
        outcomes, faults = {"died": 1}, [f"{task.name}: {child.wait().said[-2000:]}"]
    tally.outcomes.update(outcomes)
    tally.faults += faults
    for fault in faults:
        print(f"FAULT, {task.attack}: {fault}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
