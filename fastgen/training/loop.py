"""The training loop: `train` runs it, `steps` yields the steps that are left, and `update` takes one."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

import torch

from fastgen.optim.schedules import learning_rate
from fastgen.recipe.schema import Recipe
from fastgen.runs import predictions as files
from fastgen.runs.folder import PACKAGES, RunLock
from fastgen.runs.machine import machine
from fastgen.runs.metrics import DIVERGED
from fastgen.runs.summary import FINISHED, INTERRUPTED, Summary
from fastgen.training import checkpoints
from fastgen.training.data import LEFT_OUT
from fastgen.training.launch import CHECKPOINT, CONTINUE, STOP, noticing_lost_processes
from fastgen.training.network import parameter_count
from fastgen.training.position import CROSSINGS
from fastgen.training.prepare import Training, prepare
from fastgen.training.stages import AUGMENT, EVALUATE, HOST_TO_DEVICE, LOG, SAVE, STEP, WAIT, advice
from fastgen.training.tracking import failing_in_wandb, summarise_in_wandb
from fastgen.training.watching import Watcher
from pipelines.backends import Batch
from pipelines.provenance import made_by

_NEARLY = 2.0  # percent below train.fitted_at: from this running accuracy of an epoch on, looks whether it is fitted


def train(recipe: Recipe, watchers: Sequence[Watcher] = ()) -> Summary:
    """Run a recipe to its end, or to a signal, and return what summary.json holds.

    watchers: the caller's own, beside the loop's. Raises UserError for mistakes in the recipe or its data,
    ArithmeticError when the loss stops being finite, SystemExit after a signal.
    """
    with RunLock() as lock:
        run = prepare(recipe, lock, watchers)
        with running(run), closing(steps(run)) as remaining:
            if wants_evaluation(run):  # a signal ended the run between a step and its evaluation
                evaluate(run)
            for step in remaining:
                update(run, step)
                lock.keep()
                if run.position.step % recipe.track.log_steps == 0:  # seldom, as reading metrics waits for the device
                    log_progress(run, step)
                if run.position.step_in_epoch == 0:
                    end_epoch(run, step)
                run.decision = agree(run)
                if run.decision != STOP and wants_evaluation(run):
                    evaluate(run)
                if run.decision == CHECKPOINT:
                    save(run)
            summary = finish(run)
    if run.signal.received:
        raise SystemExit(128 + run.signal.received)
    return summary


@dataclass(frozen=True)
class Step:
    """An optimizer step to take. epoch: int64 scalar on the device (torch.compile would compile anew for each int).
    batches: the stream that yields its micro-batches next."""

    learning_rate: float
    epoch: torch.Tensor
    batches: Generator[Batch]


def steps(run: Training) -> Generator[Step]:
    """All steps that are left, until the run is stopped. Each epoch opens a stream of batches, and closes it at its end
    or at the run's."""
    recipe, position, sampler = run.recipe, run.position, run.data.sampler
    while not ended(run):
        epoch, device_epoch = position.epoch, torch.tensor(position.epoch, device=run.accelerator.device)
        run.clock.enter(WAIT)
        with closing(run.data.training(epoch, position.step_in_epoch)) as batches:
            while position.epoch == epoch and not ended(run):
                at = epoch * sampler.samples + position.step_in_epoch * recipe.data.batch_size
                progress = position.step / run.total_steps
                rate = learning_rate(recipe.schedule, recipe.optim.lr, at, sampler.samples, progress)
                yield Step(rate, device_epoch, batches)


def update(run: Training, step: Step) -> None:
    """One optimizer step over one global batch, in micro-batches."""
    learner, clock, micro_batches = run.learner, run.clock, run.recipe.train.accumulate
    learner.set_rate(step.learning_rate)
    for micro in range(micro_batches):
        batch = next_batch(run, step)
        if run.captured is not None:
            clock.enter(STEP)
            logits, loss = run.captured(batch.images, batch.index, step.epoch, batch.label)
        else:
            clock.enter(AUGMENT)
            images, targets = run.data.prepare(batch.images, batch.index, step.epoch), batch.label
            if run.mixer is not None:
                images, targets = run.mixer(images, batch.label, run.position.step, micro)
                batch = replace(batch, label=targets.argmax(1))  # of which there is most in each image
            clock.enter(STEP)
            logits, loss = learner.gradients(images, targets, last=micro == micro_batches - 1)
        for watcher in run.watchers:
            watcher.batch(batch, logits, loss)
    if run.captured is None:
        learner.step()
    if run.average:
        run.average.update(run.bare)
    run.position.step += 1
    for watcher in run.watchers:
        watcher.step(run.position)


# ------------------------------------------------------------ what the lines of the loop do


def next_batch(run: Training, step: Step) -> Batch:
    """The stream's next micro-batch, on the device."""
    run.clock.enter(WAIT)
    transferred = run.data.transfer_seconds
    batch = next(step.batches)
    run.clock.move(run.data.transfer_seconds - transferred, WAIT, HOST_TO_DEVICE)
    return batch


@contextmanager
def running(run: Training) -> Iterator[None]:
    """A context that catches signals, shows progress and notices a lost process."""
    how_to_go_on = (
        f"The run in {run.folder} ends; run.resume=true run.dir={run.folder} continues it from its last checkpoint, on "
        "any number of processes"
    )
    with failing_in_wandb(run.accelerator), run.signal, run.display, noticing_lost_processes(how_to_go_on):
        run.display.say(
            f"{run.recipe.recipe} in {run.folder}: {run.recipe.model.name}, {parameter_count(run.bare):,} parameters, "
            f"{run.data.baked.path.name}, {run.accelerator.num_processes} x {run.accelerator.device.type}"
        )
        if run.position.step:
            run.display.say(f"going on from step {run.position.step:,}, epoch {run.position.epochs:g}")
        if run.recipe.train.stop_at_interpolation and run.recipe.train.evaluate != "always":
            run.display.say(
                f"train.evaluate={run.recipe.train.evaluate}: nobody sees when the training set is fitted, and the run "
                "does not end before its last epoch"
            )
        if run.accelerator.num_processes > 1:  # NCCL can end a process that has lost another before it says so
            run.display.say(
                f"if a process is lost, run.resume=true run.dir={run.folder} goes on, on any number of them"
            )
        run.bare.train()
        yield


def ended(run: Training) -> bool:
    """Whether no step is left, the run is stopped, or it ends because its training set is fitted."""
    settings = run.recipe.train
    fitted = settings.stop_at_interpolation and run.position.crossed(settings.fitted_at) is not None
    return fitted or run.decision == STOP or run.position.step >= run.total_steps


def log_progress(run: Training, step: Step) -> None:
    """Log the loss and accuracy since the last such line, the learning rate and the speed."""
    run.clock.enter(LOG)
    loss, top1 = run.meter.take_line()
    check_finite(run, loss)
    speed = run.clock.images_per_second
    # Of mixed images, a hit is the label with the larger share.
    of = "train_running_mixed" if run.mixer is not None else "train_running"
    line = {f"{of}_loss_nats": loss, f"{of}_top1_percent": top1, "learning_rate": step.learning_rate}
    line |= {"images_per_second": round(speed, 1), "data_stall_fraction": round(run.clock.stall_fraction, 4)}
    run.log(line)
    run.display.rate((run.position.step - 1) // run.position.steps_per_epoch, loss, speed)


def end_epoch(run: Training, step: Step) -> None:
    """Close the stream, so that its memory is free for an evaluation, and tell the watchers."""
    step.batches.close()
    run.clock.enter(LOG)
    run.meter.wait()
    for watcher in run.watchers:
        watcher.epoch(run.position.epoch - 1)
    settings, running_top1 = run.recipe.train, run.meter.take_epoch()
    run.position.nearly = settings.stop_at_interpolation and running_top1 >= settings.fitted_at - _NEARLY


def agree(run: Training) -> int:
    """Continue, write a checkpoint, or stop: all processes decide the same, though a signal may reach one alone."""
    due = run.accelerator.is_main_process and time.monotonic() > run.save_at
    wish = STOP if run.signal.received else CHECKPOINT if due else CONTINUE
    return run.agreement.reach(wish, run.position.step)


def wants_evaluation(run: Training) -> bool:
    """Whether to evaluate now: at the end of some epochs and of the run, and where more of the training set is fitted
    than before. Once nearly all is, this looks at samples (`fits_more`), which takes all processes, and time."""
    position, settings = run.position, run.recipe.train
    if settings.evaluate == "never" or position.step in (0, position.evaluated_step):
        return False
    if settings.evaluate == "end" or position.step >= run.total_steps:
        return position.step >= run.total_steps
    if position.step_in_epoch == 0 and position.epoch % settings.evaluate_epochs == 0:
        return True
    steps_per_check = -(-position.steps_per_epoch // settings.checks_per_epoch)
    return position.nearly and position.step_in_epoch % steps_per_check == 0 and fits_more(run)


def fits_more(run: Training) -> bool:
    """Whether the training accuracy has reached a level at which it was not. A signal meanwhile stops the run: its
    continuation begins with this look."""
    run.clock.enter(EVALUATE)
    reaches = run.evaluator.reaches(run.position.next_level(run.recipe.train.fitted_at), stopping(run))
    run.clock.enter(None)
    if reaches is None:
        run.decision = STOP
    return bool(reaches)


def evaluation_takes_in_training(run: Training) -> bool:
    """Whether the training set is evaluated as well, which takes long where it is large."""
    position, seldom = run.position, run.recipe.train.evaluate_train_epochs
    last = position.step >= run.total_steps
    return seldom is None or last or position.nearly or position.epoch % seldom == 0


def evaluate(run: Training) -> None:
    """Evaluate, and log the result. A signal meanwhile stops the run: its continuation begins with this evaluation."""
    run.clock.enter(EVALUATE)
    evaluation = run.evaluator.splits(stopping(run), train=evaluation_takes_in_training(run))
    if evaluation is None:
        run.decision = STOP
    else:
        run.position.record(evaluation, run.recipe.train.fitted_at)
        run.log(run.position.evaluation.line())
        run.display.evaluated(run.position)
    run.clock.enter(None)


def stopping(run: Training) -> Callable[[int], bool]:
    """Whether to end within an evaluation, by the number of its batch: all processes decide the same."""
    return lambda batch: run.agreement.reach(STOP if run.signal.received else CONTINUE, batch) == STOP


def save(run: Training, last: bool = False) -> None:
    """Write a checkpoint of the present position. Raises Unwritable where it cannot be written and is needed."""
    run.clock.enter(SAVE)
    run.position.running, run.position.seconds = run.meter.totals(), run.wall_seconds
    run.position.world_size = run.accelerator.num_processes
    keep, folder = run.recipe.run.keep_checkpoints, run.folder / "checkpoints"
    if run.metrics is not None:
        run.metrics.sync()  # what they say of the steps before is not logged again
    try:
        checkpoints.save(run.accelerator, folder, run.position, keep, run.bare, run.states)
    except checkpoints.Unwritable as error:
        if last or run.recipe.run.need_checkpoints:
            raise
        run.display.say(f"{error}; the run goes on (run.need_checkpoints=false)")
    run.save_at = time.monotonic() + 60 * run.recipe.run.checkpoint_minutes
    run.clock.enter(None)


def check_finite(run: Training, loss: float | None) -> None:
    """Raises ArithmeticError when training diverged, after a last line that says so: no later measurement would mean
    anything."""
    if loss is not None and not math.isfinite(loss):
        run.log({DIVERGED: 1})
        raise ArithmeticError(
            f"the loss is {loss} at step {run.position.step}: training diverged. Lower optim.lr (now "
            f"{run.recipe.optim.lr:g}); what was logged until then is in {run.folder}"
        )


def longest_side(run: Training) -> int:
    """Of the baked training images, in pixels."""
    stored = run.data.baked.splits["train"]
    return int(max(stored.height.max(), stored.width.max()))


def write_predictions(run: Training) -> str | None:
    """Write what the network says of every sample; the file's hash, in the main process."""
    found = {}
    for split in run.data.baked.splits:
        correct, correct_true, margin = (each.cpu().numpy() for each in run.evaluator.predictions(split))
        found[split] = correct, correct_true, margin
    return files.write(run.folder, found, run.data.members) if run.accelerator.is_main_process else None


def finish(run: Training) -> Summary:
    """Write the last checkpoint and summary.json, and end the trackers."""
    run.clock.enter(LOG)
    run.meter.wait()
    run.clock.enter(None)
    recipe, position, evaluation = run.recipe, run.position, run.position.evaluation
    check_finite(run, evaluation.train_loss)
    if run.recorder and run.decision != STOP:
        keeps = LEFT_OUT in run.data.parts and run.recorder.keeps_probabilities
        left_out = run.evaluator.left_out_probabilities() if keeps else None
        run.recorder.finish(position.epoch, position.step_in_epoch, left_out)
    predictions = write_predictions(run) if recipe.train.predictions and run.decision != STOP else None
    save(run, last=True)
    signs_top1 = evaluation.train_top1 if recipe.data.labels.signs else None
    summary = Summary(
        **vars(evaluation),
        status=INTERRUPTED if run.decision == STOP else FINISHED,
        recipe=recipe.recipe,
        seed=recipe.seed,
        params=parameter_count(run.bare),
        epochs=position.epochs,
        steps=position.step,
        best_test_top1=position.best_test_top1,
        best_test_top5=position.best_test_top5,
        interpolation_epoch=position.crossed(100),
        fitted_at=recipe.train.fitted_at,
        fitted_epoch=position.crossed(recipe.train.fitted_at),
        first_epoch_at={f"{level:g}": position.crossed(level) for level in CROSSINGS},
        # (1/n) sum_i sigma_i h(x_i) with signs sigma_i and h(x) = +-1
        rademacher_complexity=None if signs_top1 is None else 2 * signs_top1 / 100 - 1,
        images_per_second=round(run.clock.images_per_second, 1),
        data_stall_fraction=round(run.clock.stall_fraction, 4),
        time_fractions=run.clock.fractions,
        advice=advice(run.clock, recipe.data.backend, run.accelerator.device.type, longest_side(run)),
        wall_seconds=run.wall_seconds,
        processes=run.accelerator.num_processes,
        device=run.accelerator.device.type,
        manifest_sha256=run.data.baked.sha256,
        members=run.data.sampler.samples,
        predictions_sha256=predictions,
        run_dir=str(run.folder),
        made_by={**made_by(*PACKAGES), "machine": machine()},
    )
    if run.metrics is not None:
        summary.write(run.folder)
        run.metrics.close()
        summarise_in_wandb(run.accelerator, summary)
    run.display.finished(summary)
    run.accelerator.wait_for_everyone()  # ending the trackers at different times can abort a process
    run.accelerator.end_training()
    return summary
