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

from pipelines.errors import UserError

POSITION = "position.json"


@dataclass
class Position:
    """Where a run stands. sampler: its state; best_test_top1, best_test_top5 in percent; seconds: of training and
    evaluation so far; running: the meter's totals; nearly: whether the last epoch fitted nearly all samples."""

    step: int = 0
    sampler: dict[str, int] = field(default_factory=dict)
    interpolation_epoch: float | None = None
    best_test_top1: float | None = None
    best_test_top5: float | None = None
    seconds: float = 0.0
    world_size: int = 1
    running: list[list[float]] = field(default_factory=list)
    nearly: bool = False
    manifest_sha256: str = ""


def save(accelerator: Accelerator, folder: Path, position: Position, keep: int) -> None:
    """Write a checkpoint aside, rename it, and delete all but the latest `keep`. Called by all processes."""
    final = folder / f"step_{position.step:08d}"
    if final.exists():
        return
    temporary = folder / f".step_{position.step:08d}.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (temporary / POSITION).write_text(json.dumps(asdict(position), indent=1))
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
        position = Position(**json.loads((checkpoint / POSITION).read_text()))
        accelerator.load_state(str(checkpoint))
    except (OSError, ValueError, TypeError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{checkpoint} cannot be restored: {reason}; delete it to resume from the one before"
        ) from error
    if position.world_size != accelerator.num_processes:
        # No generator state belongs to a process that did not exist; give each a fresh one of its own.
        torch.manual_seed(position.step * 65537 + accelerator.process_index)
    return position


def _complete(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("step_*") if (p / POSITION).is_file())
