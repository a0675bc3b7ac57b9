"""Trainings that are killed again and again, and go on: the result must be that of a twin that nobody killed."""

import random
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torture.forks import KILLED, OK, REFUSED, Child, Outcome
from torture.tasks import Found, Task
from torture.trees import tree
from whole_runs import SMALL

from fastgen import cli
from fastgen.training import checkpoints

_SETTINGS = [
    *(one for one in SMALL if not one.startswith(("run.", "train.epochs"))), "train.threads=1", "train.dynamics=true",
    "train.startup_minutes=0.2", "train.timeout_minutes=0.5", "run.checkpoint_minutes=0.003",
]  # fmt: skip
_LONGEST = 1.5  # seconds that a training lives
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Campaign:
    """One run that is killed `kills` times, with a backend and a number of processes."""

    backend: str
    processes: int
    kills: int

    @property
    def epochs(self) -> int:
        """Long enough for some of the kills to find it in each part of its life."""
        return 40 + 4 * self.kills

    @property
    def name(self) -> str:
        return f"{self.backend}, {self.processes} process{'es' if self.processes > 1 else ''}"

    def run(self, seed: int, folder: Path) -> Found:
        """Kill it, let it end, and compare it with its twin."""
        outcomes: Counter[str] = Counter()
        draw = random.Random(f"{self.name} {seed}")
        killed, twin = folder / "killed", folder / "twin"
        wrong: list[str] = []
        for _ in range(self.kills):
            number, ended = self._killed_once(killed, draw)
            outcomes[number.name] += 1
            for outcome in ended:
                if outcome.kind not in (OK, KILLED, REFUSED) or (
                    outcome.kind == REFUSED and not _expected(outcome.said)
                ):
                    wrong.append(f"{self.name}: {outcome.kind}: {outcome.said[-1500:]}")
        for root in (killed, twin):
            for outcome in [child.wait(300) for child in self._start(root)]:
                if outcome.kind != OK:
                    wrong.append(f"{self.name}: {root.name} does not end: {outcome.kind}: {outcome.said[-1500:]}")
        if not wrong:
            wrong += [f"{self.name}: {text}" for text in _compared(killed / "run", twin / "run")]
        return outcomes, wrong

    def _start(self, root: Path) -> list[Child]:
        root.mkdir(parents=True, exist_ok=True)
        resume = ["run.resume=true"] if (root / "run" / "recipe.yaml").exists() else []
        command = ["train", "recipe=quickstart", *_SETTINGS, f"train.epochs={self.epochs}", f"run.dir={root / 'run'}"]
        command += [f"data.backend={self.backend}", *resume]

        def work() -> None:
            if code := cli.main(command):
                raise SystemExit(code)

        return [
            Child(work, root / f"rank_{rank}.txt", environment=environment)
            for rank, environment in enumerate(self._environments(root))
        ]

    def _environments(self, root: Path) -> list[dict[str, str]]:
        cache = {"FASTGEN_CACHE": str(root / "cache"), "TMPDIR": str(root)}
        if self.processes == 1:
            return [cache]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        number = str(self.processes)
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(self.processes)]
        return [{**cache, **meeting, **rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number} for rank in ranks]

    def _killed_once(self, root: Path, draw: random.Random) -> tuple[signal.Signals, list[Outcome]]:
        children = self._start(root)
        time.sleep(draw.uniform(0, _LONGEST))
        number = draw.choice(_SIGNALS)
        one = draw.randrange(len(children))
        for rank, child in enumerate(children):
            if rank == one or number == signal.SIGINT or draw.random() < 0.3:
                child.send(number)
        return number, [child.wait() for child in children]


def _expected(said: str) -> bool:
    """Whether a process that ended by itself said why, in one line."""
    lines = [line for line in said.splitlines() if line.startswith("fastgen: ")]
    words = ("lost another one", "met not all others", "interrupted", "ended by SIGTERM", "another process is training")
    return len(lines) <= 1 and (not lines or any(word in lines[0] for word in words))


def _compared(killed: Path, twin: Path) -> list[str]:
    """Metrics line by line, weights, optimizer and dynamics bit by bit, and no file that the twin has not."""
    one, other = tree(killed), tree(twin)
    last = checkpoints.latest(twin / "checkpoints")
    assert last is not None
    checked = [name for name in other if not name.startswith("checkpoints/") or last.name in name]
    wrong = [f"{name} differs from the twin's" for name in checked if one.get(name) != other[name]]
    beyond = [name for name in one if name not in other and not name.startswith("checkpoints/step_")]
    return wrong + [f"{name} is left over" for name in beyond]


CAMPAIGNS = [
    Campaign("resident", 1, 50), Campaign("ffcv", 1, 20), Campaign("dali", 1, 10), Campaign("resident", 2, 20),
    Campaign("ffcv", 2, 10),
]  # fmt: skip


def tasks(number: int, seed: int) -> list[Task]:
    """About `number` kills over all campaigns; a campaign without any is left out."""
    total = sum(campaign.kills for campaign in CAMPAIGNS)
    some = [replace(campaign, kills=round(campaign.kills * number / total)) for campaign in CAMPAIGNS]
    return [Task("kills", campaign.name, partial(campaign.run, seed)) for campaign in some if campaign.kills]
