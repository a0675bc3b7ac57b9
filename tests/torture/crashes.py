"""Each write, flush, rename and removal of a command is a place to die, or to find the disk full.

After it the command is given again, as a user would, and everything must be as if nothing had happened: the same files,
the same bytes, nothing left over.
"""

import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torture.forks import COUNT, DIE, FULL, KILLED, OK, ONCE, REFUSED, TEAR, Child
from torture.tasks import Found, Task
from torture.trees import difference, tree
from whole_runs import SMALL

from fastgen import cli
from pipelines.baked import bake, beton, writer

_NAMES = {DIE: "died before", TEAR: "died within", FULL: "disk full from", ONCE: "disk full at"}  # operation N
_CHUNK = 8  # trials of a task: few enough for the last tasks to end together
_RUN = [
    *(one for one in SMALL if not one.startswith("run.")),
    "train.threads=1", "train.epochs=2", "train.max_steps=4", "train.dynamics=true",
]  # fmt: skip
_SET = [one for one in SMALL if one.startswith("data.s")]


@dataclass(frozen=True)
class Command:
    """name: in the report. before: commands whose results it needs. arguments: of `fastgen`, given its folder."""

    name: str
    arguments: Callable[[Path], list[str]]
    before: Callable[[Path], list[list[str]]] = lambda root: []


def _fastgen(arguments: list[str]) -> None:
    """The command in this process, with .beton files of several parts without much data."""
    for module in (beton, writer):
        module.PART_PAGES = 1
    bake.Writer = partial(writer.Writer, page_bytes=1 << 12)
    if status := cli.main(arguments):
        raise SystemExit(status)


def _train(root: Path, *more: str) -> list[str]:
    resume = ["run.resume=true"] if (root / "run" / "recipe.yaml").exists() else []
    return ["train", "recipe=quickstart", *_RUN, "run.checkpoint_minutes=0", f"run.dir={root / 'run'}", *resume, *more]


def _bake(root: Path, *more: str) -> list[str]:
    return ["bake", "recipe=quickstart", *_SET, *more]


COMMANDS = [
    Command("bake", _bake),
    Command("column", lambda root: _bake(root, "data.labels.seed=7"), lambda root: [_bake(root)]),
    Command("train", _train, lambda root: [_bake(root)]),
    Command(
        "sweep",
        lambda root: [
            "sweep", "recipe=quickstart", *_RUN, "seed=0,1", "train.dynamics=false", "--jobs", "1", "--output",
            str(root / "sweep"),
        ],
        lambda root: [_bake(root)],
    ),
    Command(
        "export",
        lambda root: ["export", "recipe=quickstart", *_SET, "--to", "webdataset", "--output", str(root / "export")],
        lambda root: [_bake(root)],
    ),
    Command(
        "report",
        lambda root: ["report", str(root / "run"), "--output", str(root / "report.html")],
        lambda root: [_train(root)],
    ),
]  # fmt: skip


class Crashes:
    """A command and its places to die. folder: to work in; it is that of all trials."""

    def __init__(self, command: Command, folder: Path) -> None:
        self.command, self._folder = command, folder
        self._template, self._log = folder / "before", folder / "log.txt"
        self._template.mkdir(parents=True)
        for arguments in command.before(self._template):
            outcome = self._child(self._template, partial(_fastgen, arguments)).wait()
            assert outcome.kind == OK, outcome.said
        twin = self._copy("twin")
        outcome = self._child(twin, lambda: _fastgen(command.arguments(twin)), COUNT).wait()
        assert outcome.kind == OK, outcome.said
        self.places = outcome.operations
        self._expected = tree(twin)

    def _copy(self, name: str) -> Path:
        root = self._folder / name
        shutil.copytree(self._template, root, symlinks=True)
        for path in root.rglob("*.html"):
            path.write_text(path.read_text().replace(str(self._template), str(root)))
        return root

    def _child(self, root: Path, work: Callable[[], object], mode: int = 0, place: int = 0) -> Child:
        environment = {"FASTGEN_CACHE": str(root / "cache"), "TMPDIR": str(root.parent)}
        log = root.parent / f"{root.name}.txt"
        return Child(work, log, (root, mode, place) if mode else None, environment)

    def trial(self, mode: int, place: int) -> str:
        """What was wrong after the attack at a place; "" where all is as it should be."""
        root = self._copy(f"trial-{os.getpid()}")
        try:
            attacked = self._child(root, lambda: _fastgen(self.command.arguments(root)), mode, place).wait()
            full = mode in (FULL, ONCE)
            expected = (OK, REFUSED) if full else (KILLED, OK)
            if attacked.kind not in expected:
                return f"{attacked.kind} at the attack: {attacked.said[-2000:]}"
            if full and attacked.kind == REFUSED and len(re.findall("^fastgen: ", attacked.said, re.M)) != 1:
                return f"not one line: {attacked.said[-2000:]}"
            if self.command.name == "export" and not full and (root / "export").exists():
                return self._compare(root)  # it is whole: `export` does not write over it
            again = self._child(root, lambda: _fastgen(self.command.arguments(root))).wait()
            if again.kind != OK and not (self.command.name == "export" and "exists already" in again.said):
                return f"{again.kind} afterwards: {again.said[-2000:]}"
            return self._compare(root)
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def _compare(self, root: Path) -> str:
        return difference(self._expected, tree(root))


def tasks(number: int, seed: int, folder: Path) -> list[Task]:
    """`number` attacks at most, drawn from all: each place of each command, in each mode."""
    if not number:
        return []
    places: list[tuple[Crashes, int, int]] = []
    for command in COMMANDS:
        crashes = Crashes(command, folder / command.name)
        print(f"{command.name}: {crashes.places} places to die", flush=True)
        places += [(crashes, mode, place) for place in range(1, crashes.places + 1) for mode in _NAMES]
    places = random.Random(seed).sample(places, min(number, len(places)))
    return [
        Task("crash points", "crash points", partial(_trials, places[begin : begin + _CHUNK]))
        for begin in range(0, len(places), _CHUNK)
    ]


def _trials(places: list[tuple[Crashes, int, int]], folder: Path) -> Found:
    outcomes: Counter[str] = Counter()
    faults = []
    for crashes, mode, place in places:
        wrong = crashes.trial(mode, place)
        outcomes[_NAMES[mode]] += 1
        if wrong:
            faults.append(f"{crashes.command.name}, {_NAMES[mode]} {place}: {wrong}")
    return outcomes, faults
