"""Checkpoints: the whole state of a run in a folder that is there or is not.

checkpoints/step_00001234/ holds model.safetensors, the optimizer and the generators of each process (all by
Accelerate) and position.json, which is written last and says where the run stood.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from fastgen.runs.summary import Evaluation
from pipelines.durable import write_atomically
from pipelines.errors import UserError

POSITION = "position.json"
CROSSINGS = (99.0, 99.9, 100.0)  # percent; at 100 every single training sample is classified as labelled
# What reading a file raises that is cut, changed or of another model.
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, UnpicklingError, SafetensorError)


@dataclass
class Position:
    """Where a run stands. `step` is the run's only counter.

    evaluation: the last one, made at step evaluated_step (0: none yet). best_*: percent, over all evaluations.
    crossings: training accuracy in percent, written as "99.9" -> the epochs of the first evaluation that reached it.
    nearly: whether the last epoch fitted nearly all samples. running: the meter's totals. seconds: of training and
    evaluation so far. world_size: number of processes that wrote this checkpoint.
    """

    steps_per_epoch: int
    step: int = 0
    evaluated_step: int = 0
    evaluation: Evaluation = field(default_factory=Evaluation)
    crossings: dict[str, float] = field(default_factory=dict)
    best_test_top1: float | None = None
    best_test_top5: float | None = None
    nearly: bool = False
    running: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    world_size: int = 1
    manifest_sha256: str = ""

    @property
    def epoch(self) -> int:
        """The epoch of the next step, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """How many of this epoch's steps are done; 0 just after the last of an epoch."""
        return self.step % self.steps_per_epoch

    def crossed(self, level: float) -> float | None:
        """The epochs of the first evaluation whose training accuracy reached `level` percent; None if none did."""
        return self.crossings.get(f"{level:.12g}")

    @property
    def epochs(self) -> float:
        """Epochs trained so far, with a fraction for the last one."""
        return round(self.step / self.steps_per_epoch, 4)

    def record(self, evaluation: Evaluation, fitted_at: float) -> None:
        """Remember an evaluation of this step. fitted_at: train.fitted_at."""
        self.evaluation, self.evaluated_step = evaluation, self.step
        for level in (*CROSSINGS, fitted_at):
            if evaluation.train_top1 is not None and evaluation.train_top1 >= level:
                self.crossings.setdefault(f"{level:.12g}", self.epochs)
        if evaluation.test_top1 is not None:
            self.best_test_top1 = max(evaluation.test_top1, self.best_test_top1 or 0.0)
        if evaluation.test_top5 is not None:
            self.best_test_top5 = max(evaluation.test_top5, self.best_test_top5 or 0.0)

    @staticmethod
    def read(path: Path) -> "Position":
        values = json.loads(path.read_text())
        if "crossings" not in values:
            raise UserError(
                f"{path} is of an earlier version of fastgen, which alone goes on with it; start another run"
            )
        return Position(**{**values, "evaluation": Evaluation(**values["evaluation"])})


def save(accelerator: Accelerator, folder: Path, position: Position, keep: int) -> None:
    """Write a checkpoint aside, rename it, and delete all but the latest `keep`. Called by all processes."""
    final = folder / f"step_{position.step:08d}"
    text = json.dumps(asdict(position), indent=1)
    if final.exists():  # it holds these weights already; the position may know more about them by now
        if accelerator.is_main_process:
            write_atomically(final / POSITION, text)
        return
    temporary = folder / f".step_{position.step:08d}.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (temporary / POSITION).write_text(text)
        temporary.rename(final)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def restore(accelerator: Accelerator, checkpoint: Path) -> Position:
    """Load weights, optimizer and generators into what `accelerator` prepared, and return the position.

    Raises UserError when the checkpoint cannot be read or does not fit the recipe's model.
    """
    try:
        position = Position.read(checkpoint / POSITION)
        accelerator.load_state(str(checkpoint))
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{checkpoint} cannot be restored: {reason}; delete it to resume from the one before"
        ) from error
    if position.world_size != accelerator.num_processes:
        # The checkpoint has no generator state for processes that did not exist: each process begins a fresh one.
        torch.manual_seed(position.step * 65537 + accelerator.process_index)
    return position


def _complete(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step_*") if (p / POSITION).is_file())
