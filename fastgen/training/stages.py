"""Where the time of a training goes, and what would make it faster."""

import time

from pipelines.backends import BACKENDS

WAITING, HOST_TO_DEVICE, AUGMENT, STEP = "waiting", "host_to_device", "augment", "step"
EVALUATE, LOG, SAVE = "evaluate", "log", "save"
_STAGES = (WAITING, HOST_TO_DEVICE, AUGMENT, STEP, EVALUATE, LOG, SAVE)
_STALLED = 0.05  # of the loop, from which the loader is the bottleneck
_SHORT = 15.0  # seconds, of which the evaluation and the checkpoint at the end are too large a part to be told
_MUCH = 0.2  # of the whole time, from which something that could be done less often is


class Stages:
    """A clock that always belongs to one stage: entering the next one ends it. Times are those of this process.

    What a GPU does runs behind: its time shows where the process next waits for it, in `log` (which reads the metrics)
    or in `waiting` (where a loader's memory is reused), and starting the work is what `augment` and `step` show.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(_STAGES, 0.0)
        self._stage: str | None = None
        self._mark = 0.0

    def enter(self, stage: str | None) -> float:
        """Begin `stage` (None: nothing that is counted). Returns the seconds of the one that this ends."""
        now = time.perf_counter()
        took = now - self._mark
        if self._stage is None:
            took = 0.0
        else:
            self.seconds[self._stage] += took
        self._stage, self._mark = stage, now
        return took

    def move(self, seconds: float, before: str, after: str) -> None:
        """Count `seconds` that were counted as the stage `before` as `after`."""
        self.seconds[before] -= seconds
        self.seconds[after] += seconds

    def restart(self) -> None:
        """Forget the seconds so far: the first step compiles and allocates."""
        self.seconds = dict.fromkeys(_STAGES, 0.0)

    @property
    def fractions(self) -> dict[str, float]:
        """Of the time that was counted; empty where none was."""
        total = sum(self.seconds.values())
        return {stage: round(seconds / total, 4) for stage, seconds in self.seconds.items()} if total else {}


def advice(stages: Stages, samples: int, backend: str, device: str) -> str:
    """One sentence: what bounds this training, and the remedy.

    samples: trained on, by all processes, in the counted time.
    """
    seconds, fractions = stages.seconds, stages.fractions
    loop = seconds[WAITING] + seconds[HOST_TO_DEVICE] + seconds[AUGMENT] + seconds[STEP]
    if not fractions or not samples or not loop:
        return "too short to say what bounds it"
    rate = samples / loop
    computing = seconds[AUGMENT] + seconds[STEP] + seconds[LOG]
    if seconds[WAITING] > _STALLED * loop:
        told = f"the loader delivers {rate:,.0f} images/s, the {device} takes {samples / computing:,.0f}"
        return f"{told}: {BACKENDS[backend].when_slow}"
    if seconds[HOST_TO_DEVICE] > _STALLED * loop:
        share = 100 * seconds[HOST_TO_DEVICE] / loop
        others = " or ".join(name for name, other in BACKENDS.items() if other.decodes_on_gpu)
        return f"copying batches to the {device} takes {share:.0f} % of the loop: data.backend={others} decodes on it"
    for stage, remedy in (
        (EVALUATE, "raise train.evaluate_epochs"),
        (SAVE, "raise run.checkpoint_minutes"),
    ):
        if fractions[stage] > _MUCH and sum(seconds.values()) > _SHORT:
            return f"{100 * fractions[stage]:.0f} % of the time goes into stage '{stage}': {remedy}"
    if device == "cpu" and seconds[AUGMENT] > seconds[STEP]:
        return f"augmentation takes longer than the step ({rate:,.0f} images/s together): drop what is not needed"
    return f"the {device} is the limit at {rate:,.0f} images/s, and the loader keeps up"
