"""The learning rate as a function of the position in the run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.registry import Registry


@dataclass
class ScheduleSpec:
    """The learning rate over time (schedule.*).

    exponential: lr * factor ** (completed periods), the paper's. constant: lr. cosine: from lr to 0 over the run's
    steps. every_samples: length of a period (None: an epoch). A period in samples keeps its length when data.limit
    makes the epochs shorter. warmup_samples: the rate grows linearly from 0 over this many.
    """

    kind: str = "exponential"  # constant, exponential (the paper's) or cosine (to 0 at the run's end)
    factor: float = 0.95  # of exponential: the rate is multiplied with it after each period
    every_samples: int | None = None
    warmup_samples: int = 0

    @property
    def of_length(self) -> bool:
        """As of `Schedule`."""
        return SCHEDULES[self.kind].of_length


@dataclass(frozen=True)
class Schedule:
    """factor: (spec, position, epoch_samples, progress), as in `learning_rate` -> what optim.lr is multiplied with.

    of_length: whether it goes by progress, so that a run which is made longer had other rates from its start.
    """

    factor: Callable[[ScheduleSpec, int, int, float], float]
    of_length: bool = False


SCHEDULES: Registry[Schedule] = Registry("schedule.kind")


def learning_rate(spec: ScheduleSpec, base: float, position: int, epoch_samples: int, progress: float) -> float:
    """The rate for the step that starts at `position`.

    base: optim.lr. position: samples since the run's start, counted as epoch * epoch_samples + offset, so that a
    period of one epoch ends exactly with it. epoch_samples: size of the training set. progress: the part of the run's
    steps that are done, from 0 to below 1.
    """
    rate = base * SCHEDULES[spec.kind].factor(spec, position, epoch_samples, progress)
    if position < spec.warmup_samples:
        rate *= position / spec.warmup_samples
    return rate


def _exponential(spec: ScheduleSpec, position: int, epoch_samples: int, progress: float) -> float:
    return float(spec.factor ** (position // (spec.every_samples or epoch_samples)))


def _cosine(spec: ScheduleSpec, position: int, epoch_samples: int, progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULES.add("constant", Schedule(lambda spec, position, epoch_samples, progress: 1.0))
SCHEDULES.add("exponential", Schedule(_exponential))
SCHEDULES.add("cosine", Schedule(_cosine, of_length=True))
