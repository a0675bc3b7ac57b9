"""What a run reports while it runs: to W&B through Accelerate's tracker, and on the terminal."""

import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastgen.errors import Ended, LostProcess
from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import SAMPLES, WANDB_ID
from fastgen.runs.login import ask_wandb
from fastgen.runs.metrics import read_metrics
from fastgen.runs.summary import INTERRUPTED, SUMMARY, Summary
from fastgen.terminal import console
from fastgen.training.position import Position
from fastgen.training.watching import Watcher
from pipelines.durable import read_regular, write_atomically
from pipelines.errors import UserError

# The fields of `Summary` that no line of metrics has, and by which runs are compared.
_IN_SUMMARY = ("status", "epochs", "best_test_top1", "best_test_top5", "interpolation_epoch", "fitted_epoch")
_LOGIN = "`wandb login`, or track.wandb=offline"  # the remedy where W&B refuses a run


def check_login(recipe: Recipe) -> None:
    """Ask W&B whether it knows who logs a run online, before any work is done for it. Raises UserError where it does
    not."""
    if recipe.track.wandb == "online":
        ask_wandb(_LOGIN)


def start_wandb(
    accelerator: Accelerator,
    recipe: Recipe,
    folder: Path,
    draw_samples: Callable[[], Image.Image],
    about: Mapping[str, Any],
) -> None:
    """Start the W&B run of this run directory, or continue it. Called by all processes.

    Offline, W&B does not know what a run logged before it was stopped: it is logged again from metrics.jsonl, which
    ends where the run goes on, and the files of before are set aside. So each line is there once, whatever happened.

    draw_samples: a picture of training images with their labels, which a new run logs. about: what W&B's config has
    beside the recipe. Raises UserError when W&B refuses the run.
    """
    if recipe.track.wandb == "off":
        return
    from wandb import Error

    main, offline = accelerator.is_main_process, recipe.track.wandb == "offline"
    track, labels = recipe.track, recipe.data.labels
    level = "" if labels.p in (None, 1) else f"-{labels.p:g}"
    pixels = [] if recipe.data.pixels.kind == "none" else [recipe.data.pixels.kind]
    name = folder.name if folder.name.startswith(recipe.recipe) else f"{recipe.recipe}-{folder.name}"
    settings = {
        "mode": track.wandb,
        "entity": track.entity,
        "group": track.group or recipe.recipe,
        "job_type": track.job_type or f"{labels.kind}{level}",
        "tags": list(dict.fromkeys([recipe.model.name, recipe.data.source, *pixels, *track.tags])),
        "name": f"{name}-seed{recipe.seed}",
        "dir": str(folder),
        "id": _wandb_id(folder) if main else None,
        "resume": "allow",
    }
    if main and offline:
        for logged in folder.glob("wandb/offline-run-*"):
            (folder / "wandb" / "before").mkdir(exist_ok=True)
            logged.rename(folder / "wandb" / "before" / logged.name)
    try:
        accelerator.init_trackers(track.project, config={**recipe.flat(), **about}, init_kwargs={"wandb": settings})
    except Error as error:
        raise UserError(f"W&B does not start ({error}); {_LOGIN}") from error
    if main:
        lines, tracker = read_metrics(folder), accelerator.get_tracker("wandb")
        if offline or not lines:
            tracker.log_images({SAMPLES: [draw_samples()]}, step=0)
        for line in lines if offline else []:
            tracker.log(line, step=line["step"])


def summarise_in_wandb(accelerator: Accelerator, summary: Summary) -> None:
    """What summary.json says of the run as a whole goes into W&B's summary, beside its last metrics. Main process."""
    for tracker in accelerator.trackers:  # W&B's, or none
        tracker.tracker.summary.update({name: vars(summary)[name] for name in _IN_SUMMARY})


@contextmanager
def failing_in_wandb(accelerator: Accelerator) -> Iterator[None]:
    """A context whose errors end the W&B run as a failed one, once all it logged is written. W&B's own way, a function
    that is called as the process exits, does not wait for that, and in Python the next training would log there.

    Signals act as usual, so it is no context within one that catches them. A lost process waits for nothing.
    """
    try:
        yield
    except LostProcess:
        raise
    except BaseException:
        for tracker in accelerator.trackers:  # the main process's, W&B's, or none
            _fail(tracker.tracker)
        raise


def _fail(run: Any) -> None:
    """End W&B's run, for a minute at most: the error that ends ours is still to be told."""

    def finish() -> None:
        with suppress(Exception):
            run.finish(exit_code=1)

    ending = threading.Thread(target=finish, daemon=True)
    ending.start()
    try:
        ending.join(60)
    except Ended:  # torchrun's, as soon as another process has ended by the same error, half a minute before it kills
        ending.join(10)
    except KeyboardInterrupt:
        pass


def _wandb_id(folder: Path) -> str:
    """The run's id in W&B, the same for good."""
    path = folder / WANDB_ID
    if not path.exists():
        # An agent of a W&B sweep chooses the run's id, and waits for that run.
        write_atomically(path, os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8])
    found = read_regular(path).decode(errors="replace").strip()
    if not re.fullmatch(r"[\w-]{1,64}", found):
        raise UserError(f"{path} is damaged: it holds no id of W&B's; restore it, or delete it for a new run there")
    return found


_WIDE = 100  # columns of a terminal: narrower ones have no room for a bar beside the numbers


class Display(Watcher):
    """A progress bar with rate and time left on a terminal, and a line for each evaluation. Main process only."""

    def __init__(self, enabled: bool, total_steps: int, done_steps: int, may_stop: bool = False) -> None:
        """may_stop: the run may end before its last step, as soon as its training set is fitted."""
        self._enabled = enabled
        self._console = console()
        wide = self._console.width >= _WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            *[BarColumn()] * wide,
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            *[TimeElapsedColumn()] * wide,
            TimeRemainingColumn(),
            TextColumn("left at most" if may_stop else "left"),
            console=self._console,
            transient=True,
            disable=not enabled or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=total_steps, completed=done_steps, rate="")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, position: Position) -> None:
        self._progress.update(self._task, completed=position.step)

    def rate(self, epoch: int, loss: float, images_per_second: float) -> None:
        text = f"epoch {epoch} loss {loss:.3f}"
        self._progress.update(self._task, description=text, rate=f"{images_per_second:,.0f}/s")

    def evaluated(self, position: Position) -> None:
        found = position.evaluation
        parts = [f"epoch {position.epochs:g}"]
        if found.train_top1 is not None:
            parts.append(f"train loss {found.train_loss:.4f} accuracy {found.train_top1:.2f} %")
        if found.train_top1_corrupted_part is not None:
            parts.append(f"on corrupted labels {found.train_top1_corrupted_part:.2f} %")
        if found.test_top1 is not None:
            parts.append(f"test {found.test_top1:.2f} %")
        self.say(", ".join(parts))

    def finished(self, summary: Summary) -> None:
        at = "the training set" if summary.fitted_at == 100 else f"{summary.fitted_at:g} % of the training set"
        fit = f"{at} {'not fitted' if summary.fitted_epoch is None else f'fitted at epoch {summary.fitted_epoch:g}'}"
        self.say(
            f"{summary.status} after {summary.epochs:g} epochs, {fit}, {summary.images_per_second:,.0f} images/s, "
            f"waiting for data {100 * summary.data_stall_fraction:.1f} %: {summary.run_dir}/{SUMMARY}"
        )
        if summary.status == INTERRUPTED:
            several = f"the same command with run.resume=true run.dir={summary.run_dir}"
            self.say(f"to go on: {f'fastgen resume {summary.run_dir}' if summary.processes == 1 else several}")
        if shares := summary.time_fractions:
            parts = ", ".join(f"{stage} {100 * share:.1f} %" for stage, share in shares.items() if share)
            self.say(f"time: {parts}; {summary.advice}")

    def say(self, text: str) -> None:
        if not self._enabled:
            return
        # A run goes on where nobody reads any more, or the disk of its log is full; rich would end the program.
        with suppress(OSError, SystemExit):
            self._progress.print(text) if not self._progress.disable else self._console.print(text)
