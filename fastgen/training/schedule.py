"""The learning rate as a function of the position in the run."""

import math
from collections.abc import Callable

from fastgen.recipe.schema import ScheduleSpec
from pipelines.registry import Registry

SCHEDULES: Registry[Callable[[ScheduleSpec, int, int, int], float]] = Registry("schedule.kind")


def learning_rate(spec: ScheduleSpec, base: float, position: int, epoch_samples: int, total: int) -> float:
    """The rate for the step that starts at `position`.

    base: optim.lr. position: samples since the run's start, counted as epoch * epoch_samples + offset, so that a
    period of one epoch ends exactly with it. epoch_samples: size of the training set. total: length of the run.
    """
    rate = base * SCHEDULES[spec.kind](spec, position, epoch_samples, total)
    if position < spec.warmup_samples:
        rate *= position / spec.warmup_samples
    return rate


SCHEDULES.add("constant", lambda spec, position, epoch_samples, total: 1.0)
SCHEDULES.add(
    "exponential",
    lambda spec, position, epoch_samples, total: spec.factor ** (position // (spec.every_samples or epoch_samples)),
)
SCHEDULES.add(
    "cosine",
    lambda spec, position, epoch_samples, total: 0.5 * (1 + math.cos(math.pi * min(1.0, position / total))),
)
