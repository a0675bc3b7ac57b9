"""Train one recipe.

accelerate launch fastgen/train.py recipe=NAME [key=value ...]
fastgen train recipe=NAME [key=value ...]
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the packages lie in the folder above, and this one must not be searched
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import json
import math
import time
from contextlib import closing
from typing import Any

import torch

from fastgen import cli
from fastgen.optim.optimizers import make_optimizer
from fastgen.optim.schedules import learning_rate
from fastgen.recipe.schema import Recipe
from fastgen.runs import folder as rundir
from fastgen.runs.metrics import MetricsFile
from fastgen.sets import draw_samples
from fastgen.training import checkpoints
from fastgen.training.averaging import WeightAverage
from fastgen.training.checkpoints import Position
from fastgen.training.data import open_data
from fastgen.training.evaluation import evaluate_splits
from fastgen.training.launch import (
    CHECKPOINT,
    CONTINUE,
    STOP,
    Agreement,
    check_launcher,
    make_accelerator,
    noticing_lost_processes,
    on_main,
)
from fastgen.training.meter import Meter
from fastgen.training.network import make_network, parameter_count, wants_compilation
from fastgen.training.objective import logits_of, training_loss
from fastgen.training.optimization import adding_gradients, step_of
from fastgen.training.recorder import Dynamics
from fastgen.training.stages import AUGMENT, EVALUATE, HOST_TO_DEVICE, LOG, SAVE, STEP, WAITING, Stages, advice
from fastgen.training.stopping import StopSignal
from fastgen.training.tracking import Display, evaluation_line, start_wandb
from pipelines.baked.manifest import MANIFEST
from pipelines.durable import write_atomically

_NEARLY_ALL = 98.0  # percent: running accuracy of an epoch from which the exact one is worth measuring


def train(recipe: Recipe) -> dict[str, Any]:
    """Run a recipe to its end, or to a signal, and return what summary.json holds.

    Accuracies are in percent, and null where there is nothing to measure. Raises UserError for mistakes in the
    recipe or its data, ArithmeticError when the loss stops being finite.
    """
    # ------------------------------------------------------------ processes and run directory
    started = time.perf_counter()
    check_launcher()
    accelerator = make_accelerator(recipe)
    main = accelerator.is_main_process
    folder = on_main(accelerator, lambda: rundir.choose(recipe))

    # ------------------------------------------------------------ data
    data = open_data(accelerator, recipe)
    manifest, sampler, batch_size = data.baked.manifest, data.sampler, recipe.data.batch_size
    steps_per_epoch = sampler.steps_per_epoch
    total_steps = min(recipe.train.epochs * steps_per_epoch, recipe.train.max_steps or sys.maxsize)
    steps_per_check = -(-steps_per_epoch // recipe.train.checks_per_epoch)

    # ------------------------------------------------------------ network and optimizer
    bare = make_network(recipe, data.classes, manifest.channels, data.image_size, accelerator.device)
    average = WeightAverage(bare, recipe.train.ema) if recipe.train.ema else None
    measured = average.network if average else bare
    if wants_compilation(recipe, accelerator.device):
        for each in {bare, measured}:
            each.compile()
        data.compile()
    optimizer = make_optimizer(bare, recipe.optim)
    network, optimizer = accelerator.prepare(bare, optimizer)
    take_step = step_of(accelerator, optimizer)
    dynamics = Dynamics(accelerator, data, folder) if recipe.train.dynamics else None
    accelerator.register_for_checkpointing(*(kept for kept in (average, dynamics) if kept))

    # ------------------------------------------------------------ resume
    position = Position(manifest_sha256=data.baked.sha256)
    found = checkpoints.latest(folder / "checkpoints") if recipe.run.resume else None
    if found is not None:
        rundir.check_same_data(folder, manifest)
        position = checkpoints.restore(accelerator, found)
        sampler.load_state_dict(position.sampler)
    if dynamics:
        dynamics.start(sampler.epoch)
    meter = Meter(accelerator, position.running)
    seconds_before = position.seconds

    # ------------------------------------------------------------ tracking
    metrics = None
    if main:
        write_atomically(folder / "recipe.yaml", recipe.to_yaml())
        write_atomically(folder / MANIFEST, (data.baked.path / MANIFEST).read_text())
        metrics = MetricsFile(folder, resumed_step=position.step)
    start_wandb(accelerator, recipe, folder, lambda: draw_samples(data.baked, recipe.data.labels.column_name))
    display = Display(main, total_steps, position.step)

    def wall_seconds() -> float:
        return round(seconds_before + time.perf_counter() - started, 3)

    def log(line: dict[str, Any]) -> None:
        epoch = round(position.step / steps_per_epoch, 4)
        line = {"step": position.step, "epoch": epoch, "wall_seconds": wall_seconds(), **line}
        if metrics is not None:
            metrics.write(line)
        accelerator.log(line, step=position.step)

    stages = Stages()

    def measure() -> dict[str, Any]:
        stages.enter(EVALUATE)
        result = evaluate_splits(accelerator, measured, data)
        if result["train_correct"] == result["train_count"] and position.interpolation_epoch is None:
            position.interpolation_epoch = round(position.step / steps_per_epoch, 4)
        if (top1 := result["test_top1"]) is not None:
            position.best_test_top1 = max(top1, position.best_test_top1 or 0.0)
        if (top5 := result["test_top5"]) is not None:
            position.best_test_top5 = max(top5, position.best_test_top5 or 0.0)
        log(evaluation_line(result))
        display.evaluated(position.step / steps_per_epoch, result)
        stages.enter(None)
        return result

    def save() -> None:
        stages.enter(SAVE)
        position.sampler, position.running = sampler.state_dict(), meter.totals()
        position.seconds, position.world_size = wall_seconds(), accelerator.num_processes
        checkpoints.save(accelerator, folder / "checkpoints", position, recipe.run.keep_checkpoints)
        stages.enter(None)

    def interpolated() -> bool:
        return recipe.train.stop_at_interpolation and position.interpolation_epoch is not None

    # ------------------------------------------------------------ the loop
    agreement = Agreement(accelerator)
    saved_at = time.monotonic()
    decision, result, measured_at = CONTINUE, {}, -1
    with StopSignal() as signal, display, noticing_lost_processes(accelerator, folder):
        display.say(
            f"{recipe.recipe} in {folder}: {recipe.model.name}, {parameter_count(bare):,} parameters, "
            f"{data.baked.path.name}, {accelerator.num_processes} x {accelerator.device.type}"
        )
        bare.train()
        while position.step < total_steps and decision != STOP and not interpolated():
            epoch = sampler.epoch
            epoch_tensor = torch.tensor(epoch, device=accelerator.device)  # an int would be compiled for each
            meter.pause()
            stages.enter(WAITING)
            with closing(data.training()) as batches:
                while sampler.offset < steps_per_epoch * batch_size and position.step < total_steps:
                    # -------- one optimizer step over one global batch
                    at = epoch * sampler.samples + sampler.offset
                    rate = learning_rate(
                        recipe.schedule, recipe.optim.lr, at, sampler.samples, total_steps * batch_size
                    )
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    waited = 0.0
                    for micro in range(recipe.train.accumulate):
                        stages.enter(WAITING)
                        transferred = data.transfer_seconds
                        batch = next(batches)
                        waited += stages.enter(AUGMENT)
                        stages.move(data.transfer_seconds - transferred, WAITING, HOST_TO_DEVICE)
                        images = data.prepare(batch.images, batch.index, epoch_tensor)
                        stages.enter(STEP)
                        with adding_gradients(accelerator, network, last=micro == recipe.train.accumulate - 1):
                            output = network(images)
                            loss = training_loss(output, batch.label, recipe.train)
                            accelerator.backward(loss)
                        logits = logits_of(output).detach()
                        meter.add(loss.detach(), logits, batch.label)
                        if dynamics:
                            dynamics.add(logits, batch)
                    if recipe.optim.clip is not None:
                        accelerator.clip_grad_norm_(bare.parameters(), recipe.optim.clip)
                    take_step()
                    bare.zero_grad()
                    if average:
                        average.update(bare)
                    position.step += 1
                    sampler.offset += batch_size
                    meter.step(batch_size, waited)
                    if meter.steps == 1:
                        stages.restart()
                    display.step(position.step)

                    # -------- metrics: seldom, as reading them waits for the device
                    if position.step % recipe.track.log_steps == 0:
                        stages.enter(LOG)
                        running_loss, running_top1 = meter.take_line()
                        check_finite(running_loss, position.step, recipe, folder)
                        log(
                            {
                                "train_running_loss_nats": running_loss,
                                "train_running_top1_percent": running_top1,
                                "learning_rate": rate,
                                "images_per_second": round(meter.images_per_second, 1),
                                "data_stall_fraction": round(meter.data_stall_fraction, 4),
                            }
                        )
                        display.rate(epoch, running_loss, meter.images_per_second)

                    # -------- is all of it fitted? asked within an epoch once that is near
                    done = sampler.offset // batch_size
                    if position.nearly and done % steps_per_check == 0 and done < steps_per_epoch:
                        result, measured_at = measure(), position.step
                        meter.pause()
                        if interpolated():
                            break

                    # -------- stop or checkpoint, at the same step on all processes
                    due = main and time.monotonic() - saved_at > 60 * recipe.run.checkpoint_minutes
                    wish = STOP if signal.received else CHECKPOINT if due else CONTINUE
                    decision = agreement.reach(wish, position.step)
                    if decision == STOP:
                        break
                    if decision == CHECKPOINT:
                        save()
                        saved_at = time.monotonic()
                        meter.pause()

            # -------- the end of an epoch
            stages.enter(LOG)
            meter.drain()
            if sampler.offset >= steps_per_epoch * batch_size:
                if dynamics:
                    dynamics.write(epoch)
                sampler.epoch, sampler.offset = epoch + 1, 0
                position.nearly = meter.take_epoch() >= _NEARLY_ALL and recipe.train.stop_at_interpolation
                if decision != STOP and (sampler.epoch % recipe.train.evaluate_epochs == 0 or position.nearly):
                    result, measured_at = measure(), position.step

        # ------------------------------------------------------------ the end
        if decision != STOP and measured_at != position.step:
            result = measure()
        check_finite(result.get("train_loss", 0.0), position.step, recipe, folder)
        if dynamics and decision != STOP:
            dynamics.finish(sampler.epoch, sampler.offset)
        save()
        summary = {
            "status": "interrupted" if decision == STOP else "finished",
            "recipe": recipe.recipe,
            "seed": recipe.seed,
            "params": parameter_count(bare),
            "epochs": round(position.step / steps_per_epoch, 4),
            "steps": position.step,
            **{key: value for key, value in result.items() if not key.endswith(("_count", "_correct"))},
            "best_test_top1": position.best_test_top1,
            "best_test_top5": position.best_test_top5,
            "interpolation_epoch": position.interpolation_epoch,
            **rademacher_complexity(recipe, result),
            "images_per_second": round(meter.images_per_second, 1),
            "data_stall_fraction": round(meter.data_stall_fraction, 4),
            "time_fractions": stages.fractions,
            "advice": advice(stages, meter.samples, recipe.data.backend, accelerator.device.type),
            "wall_seconds": wall_seconds(),
            "processes": accelerator.num_processes,
            "device": accelerator.device.type,
            "manifest_sha256": data.baked.sha256,
            "run_dir": str(folder),
        }
        if metrics is not None:
            write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
            metrics.close()
        display.finished(summary)
        accelerator.wait_for_everyone()  # ending the trackers at different times can abort a process
        accelerator.end_training()
    if signal.received:
        raise SystemExit(128 + signal.received)
    return summary


def rademacher_complexity(recipe: Recipe, result: dict[str, Any]) -> dict[str, float]:
    """Of random signs, (1/n) sum_i sigma_i h(x_i) with h(x) = +-1: this draw's part of the empirical Rademacher
    complexity (paper, section 2.2)."""
    if not recipe.data.labels.signs or "train_top1" not in result:
        return {}
    return {"rademacher_complexity": 2 * result["train_top1"] / 100 - 1}


def check_finite(loss: float, step: int, recipe: Recipe, folder: Path) -> None:
    """Raises ArithmeticError when training diverged: nothing measured after that means anything."""
    if not math.isfinite(loss):
        raise ArithmeticError(
            f"the loss is {loss} at step {step}: training diverged. Lower optim.lr (now {recipe.optim.lr:g}); "
            f"what was logged until then is in {folder}"
        )


if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
