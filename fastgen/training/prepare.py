"""From a recipe to a training that can begin or go on: processes, data, network, files."""

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from fastgen.recipe.schema import Recipe
from fastgen.runs import folder as run_folder
from fastgen.runs.folder import PACKAGES, RunLock
from fastgen.runs.metrics import MetricsFile
from fastgen.sets import draw_samples
from fastgen.training import checkpoints
from fastgen.training.averaging import WeightAverage
from fastgen.training.capture import Captured, wants_capture
from fastgen.training.checkpoints import Stateful
from fastgen.training.data import Data, open_data
from fastgen.training.evaluation import Evaluator
from fastgen.training.launch import CONTINUE, Agreement, draw_apart, make_accelerator, noticing_lost_processes, on_main
from fastgen.training.meter import Meter
from fastgen.training.mixing import Mixer
from fastgen.training.network import compile_for_each_size, make_network, parameter_count, wants_compilation
from fastgen.training.optimization import Learner
from fastgen.training.position import Position
from fastgen.training.recorder import Recorder
from fastgen.training.stages import Clock
from fastgen.training.stopping import StopSignal
from fastgen.training.tracking import Display, check_login, failing_in_wandb, start_wandb
from fastgen.training.watching import Watcher
from pipelines.errors import UserError
from pipelines.provenance import made_by

_FIRST_CHECKPOINT = 30.0  # seconds after the start, if it is not due before: until then nothing could be gone on with


@dataclass
class Training:
    """A training on this process.

    bare: the network itself. captured: a whole step, (images uint8, index, epoch, labels) -> (logits, loss), as a CUDA
    graph; None where steps are made of their parts. mixer: of batches, where the recipe mixes them. position: the only
    counter. metrics: the main process's file, None in the others. started: time.perf_counter() at the start, less the
    seconds before a resume. save_at: time.monotonic() from which on a checkpoint is due.
    """

    recipe: Recipe
    accelerator: Accelerator
    folder: Path
    data: Data
    bare: torch.nn.Module
    learner: Learner
    captured: Captured | None
    mixer: Mixer | None
    average: WeightAverage | None
    evaluator: Evaluator
    states: dict[str, Stateful]
    position: Position
    total_steps: int
    meter: Meter
    clock: Clock
    recorder: Recorder | None
    watchers: list[Watcher]
    metrics: MetricsFile | None
    display: Display
    agreement: Agreement
    started: float
    save_at: float
    signal: StopSignal = field(default_factory=StopSignal)
    decision: int = CONTINUE

    @property
    def wall_seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)

    def log(self, line: dict[str, Any]) -> None:
        """Add a line, with its position and time, to metrics.jsonl and to W&B."""
        line = {"step": self.position.step, "epoch": self.position.epochs, "wall_seconds": self.wall_seconds, **line}
        if self.metrics is not None:
            self.metrics.write(line)
        self.accelerator.log(line, step=self.position.step)


@noticing_lost_processes("Start the run again")
def prepare(recipe: Recipe, lock: RunLock, watchers: Sequence[Watcher] = ()) -> Training:
    """All that a training needs, restored from the last checkpoint where the recipe resumes one.

    lock: is taken for the run directory. Raises UserError for mistakes in the recipe or its data, LostProcess.
    """
    # ------------------------------------------------------------ processes and run directory
    started = time.perf_counter()
    accelerator = make_accelerator(recipe)
    on_main(accelerator, lambda: check_login(recipe))
    folder = on_main(accelerator, lambda: run_folder.choose(recipe, lock))

    # ------------------------------------------------------------ data
    data = open_data(accelerator, recipe)
    manifest, steps_per_epoch = data.baked.manifest, data.sampler.steps_per_epoch
    total_steps = min(recipe.train.epochs * steps_per_epoch, recipe.train.max_steps or sys.maxsize)

    # ------------------------------------------------------------ network and optimizer
    bare = make_network(recipe, data.classes, manifest.channels, data.image_size, accelerator.device)
    average = WeightAverage(bare, recipe.train.ema) if recipe.train.ema else None
    measured = average.network if average else bare
    if wants_compilation(recipe, accelerator.device):
        compile_for_each_size({bare, measured}, recipe.data.progressive.sizes(data.image_size))
        data.compile()
    capture, needed = wants_capture(recipe, accelerator), recipe.train.cuda_graphs == "on"
    learner = Learner(accelerator, bare, recipe.optim, recipe.train, capture)
    draw_apart(accelerator, recipe.seed)
    recorder = Recorder(accelerator, data, folder) if recipe.train.dynamics else None
    kept = {"optimizer": learner.optimizer, "average": average, "dynamics": recorder, "scaler": accelerator.scaler}
    states: dict[str, Stateful] = {name: state for name, state in kept.items() if state is not None}

    # ------------------------------------------------------------ resume
    labels = recipe.data.labels.column_name
    mask = data.members
    members = "" if mask is None else hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16]
    position = Position(steps_per_epoch, manifest_sha256=data.baked.sha256, labels=labels, members=members)
    # The same for all, also where a machine does not see the folder, which it then says.
    found = on_main(accelerator, lambda: checkpoints.latest(folder / "checkpoints")) if recipe.run.resume else None
    if found is not None:
        run_folder.check_same_data(folder, manifest)
        position = checkpoints.restore(accelerator, found, bare, states)
        _check_same_samples(recipe, folder, position, labels, members)

    # ------------------------------------------------------------ what is written and shown
    main = accelerator.is_main_process
    if main:
        run_folder.begin(folder, recipe, data.baked.path, position.step)
    if recorder:
        recorder.start(position.epoch)
    metrics = MetricsFile(folder, position.step, position.evaluated_step == position.step) if main else None
    meter = Meter(accelerator, position.running)
    clock = Clock(recipe.data.batch_size, gpu=accelerator.device.type == "cuda")
    display = Display(main, total_steps, position.step, recipe.train.stop_at_interpolation)
    training = Training(
        recipe=recipe,
        accelerator=accelerator,
        folder=folder,
        data=data,
        bare=bare,
        learner=learner,
        captured=_captured(learner, data, needed) if capture else None,
        mixer=_mixer(recipe, data) if recipe.train.mixes else None,
        average=average,
        evaluator=Evaluator(accelerator, measured, data, capture, needed),
        states=states,
        position=position,
        total_steps=total_steps,
        meter=meter,
        clock=clock,
        recorder=recorder,
        watchers=[each for each in (meter, recorder, clock, display, *watchers) if each is not None],
        metrics=metrics,
        display=display,
        agreement=Agreement(accelerator),
        started=started - position.seconds,
        save_at=time.monotonic() + min(60 * recipe.run.checkpoint_minutes, _FIRST_CHECKPOINT),
    )
    about = {"params": parameter_count(bare), "manifest_sha256": data.baked.sha256, "made_by": made_by(*PACKAGES)}
    with failing_in_wandb(accelerator):
        start_wandb(accelerator, recipe, folder, lambda: draw_samples(data.baked, labels), about)
    return training


def _check_same_samples(recipe: Recipe, folder: Path, position: Position, labels: str, members: str) -> None:
    """Raises UserError where a file that says the labels or the samples has changed since the run was stopped."""
    data = recipe.data
    if position.labels not in ("", labels):
        what, file = "labels", f"data.labels.file={data.labels.table}"
    elif position.members != members:
        what, file = "samples", f"data.subset.without={data.subset.without}"
    else:
        return
    raise UserError(
        f"{folder} was trained on other {what}: {file} has changed since; restore it, or start another run.dir"
    )


def _mixer(recipe: Recipe, data: Data) -> Mixer:
    sampler = data.sampler
    rows = sampler.batch_size // sampler.world_size // sampler.micro_batches
    return Mixer(recipe.train, data.classes, rows, recipe.seed)


def _captured(learner: Learner, data: Data, needed: bool) -> Captured:
    def whole_step(
        images: torch.Tensor, index: torch.Tensor, epoch: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return learner.learn(data.prepare(images, index, epoch), labels)

    return Captured(whole_step, needed)
