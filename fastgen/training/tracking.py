"""What a run reports while it runs: to W&B through Accelerate's tracker, and on the terminal."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastgen.recipe.schema import Recipe
from fastgen.runs.folder import SAMPLES, WANDB_ID
from fastgen.runs.summary import SUMMARY, Summary
from fastgen.terminal import console
from fastgen.training.position import Position
from fastgen.training.watching import Watcher


def start_wandb(
    accelerator: Accelerator, recipe: Recipe, folder: Path, draw_samples: Callable[[], Image.Image]
) -> None:
    """Start the W&B run of this run directory, or continue it. Called by all processes.

    draw_samples: a picture of training images with their labels, which a new run logs.
    """
    if recipe.track.wandb == "off":
        return
    track, labels = recipe.track, recipe.data.labels
    identifier = folder / WANDB_ID
    new = not identifier.exists()
    if accelerator.is_main_process and new:
        # An agent of a W&B sweep chooses the run's id, and waits for that run.
        identifier.write_text(os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8])
    level = "" if labels.p in (None, 1) else f"-{labels.p:g}"
    settings = {
        "mode": track.wandb,
        "entity": track.entity,
        "group": track.group or recipe.recipe,
        "job_type": track.job_type or f"{labels.kind}{level}",
        "tags": [recipe.model.name, recipe.data.source, recipe.data.pixels.kind, *track.tags],
        "name": f"{folder.name}-seed{recipe.seed}",
        "dir": str(folder),
        "id": identifier.read_text() if accelerator.is_main_process else None,
        "resume": "allow",
    }
    accelerator.init_trackers(track.project, config=recipe.flat(), init_kwargs={"wandb": settings})
    if accelerator.is_main_process and new:
        accelerator.get_tracker("wandb").log_images({SAMPLES: [draw_samples()]}, step=0)


class Display(Watcher):
    """A progress bar with rate and time left on a terminal, and a line for each evaluation. Main process only."""

    def __init__(self, enabled: bool, total_steps: int, done_steps: int) -> None:
        self._enabled = enabled
        self._console = console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
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
        self._progress.update(self._task, description=text, rate=f"{images_per_second:,.0f} images/s")

    def evaluated(self, position: Position) -> None:
        found = position.evaluation
        parts = [f"epoch {position.epochs:g}", f"train loss {found.train_loss:.4f} accuracy {found.train_top1:.2f} %"]
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
        if shares := summary.time_fractions:
            parts = ", ".join(f"{stage} {100 * share:.1f} %" for stage, share in shares.items() if share)
            self.say(f"time: {parts}; {summary.advice}")

    def say(self, text: str) -> None:
        if self._enabled:
            self._progress.print(text) if not self._progress.disable else self._console.print(text)
