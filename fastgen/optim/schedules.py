"""The learning rate as a function of the position in the run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.registry import Registry


@dataclass
class ScheduleSpec:
    """The learning rate over time (schedule.*).

    exponential: lr * factor ** (completed periods), the paper's. constant: lr. cosine: from lr to 0 over the run.
    every_samples: length of a period (None: an epoch). A period in samples keeps its length when data.limit makes the
    epochs shorter. warmup_samples: the rate grows linearly from 0 over this many.
    """

    kind: str = "exponential"
    factor: float = 0.95
    every_samples: int | None = None
    warmup_samples: int = 0


# (spec, position, samples of an epoch, samples of the run) -> the factor of optim.lr
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
    "cosine", lambda spec, position, epoch_samples, total: 0.5 * (1 + math.cos(math.pi * min(1.0, position / total)))
)
