"""Where the time of a training goes, and what would make it faster."""

import time

from fastgen.training.gaps import Gaps
from fastgen.training.position import Position
from fastgen.training.watching import Watcher
from pipelines.backends import BACKENDS

# The stages of a training, by the names that summary.json has for them. WAIT: the step waits for a batch.
WAIT, HOST_TO_DEVICE, AUGMENT, STEP = "waiting", "host_to_device", "augment", "step"
EVALUATE, LOG, SAVE = "evaluate", "log", "save"
_STAGES = (WAIT, HOST_TO_DEVICE, AUGMENT, STEP, EVALUATE, LOG, SAVE)
_STALLED = 0.05  # fraction of the loop's time: above it, waiting for batches bounds the training
_LARGE = 400  # pixels: larger images gain by being baked smaller, or decoded beside the training
_SHORT = 15.0  # seconds: the evaluation and the checkpoint at the end dominate a shorter run, and advise nothing
_MUCH = 0.2  # fraction of the whole time: above it, evaluations or checkpoints should be made less often


class Clock(Watcher):
    """This process's seconds in each stage. Entering a stage ends the one before.

    The count begins after the first step, which compiles and allocates. A GPU works behind the process: its time
    appears where the process waits for it, in `log` (which reads the metrics) or in `waiting` (where a loader is as far
    ahead as it may be), while `augment` and `step` hold the time that launching the work took.

    samples: trained on since the count began, by all processes.
    """

    def __init__(self, batch_size: int, gpu: bool = False) -> None:
        """batch_size: global, over all processes. gpu: the steps' work is done by one, whose gaps are the stalls."""
        self._gaps = Gaps() if gpu else None
        self.seconds = dict.fromkeys(_STAGES, 0.0)
        self.samples = 0
        self._batch_size, self._first = batch_size, True
        self._stage: str | None = None
        self._mark = 0.0

    def enter(self, stage: str | None) -> None:
        """Begin `stage` (None: time that is not counted)."""
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] += now - self._mark
        if self._gaps is not None:
            if self._stage == STEP and stage == WAIT:
                self._gaps.end()
            elif self._stage == WAIT and stage in (AUGMENT, STEP):
                self._gaps.begin()
            elif stage in (EVALUATE, LOG, SAVE, None):
                self._gaps.interrupt()
        self._stage, self._mark = stage, now

    def move(self, seconds: float, before: str, after: str) -> None:
        """Move `seconds` from the stage `before` to `after`."""
        self.seconds[before] -= seconds
        self.seconds[after] += seconds

    def step(self, position: Position) -> None:
        if self._first:
            self.seconds, self._mark, self._first = dict.fromkeys(_STAGES, 0.0), time.perf_counter(), False
            self._gaps = Gaps() if self._gaps is not None else None
        else:
            self.samples += self._batch_size

    @property
    def fractions(self) -> dict[str, float]:
        """Each stage's part of the counted time; empty where nothing was counted."""
        total = sum(self.seconds.values())
        return {stage: round(seconds / total, 4) for stage, seconds in self.seconds.items()} if total else {}

    @property
    def images_per_second(self) -> float:
        """Of all processes together, evaluations and checkpoints left out."""
        return self.samples / self._loop_seconds if self._loop_seconds else 0.0

    @property
    def stall_fraction(self) -> float:
        """The part of the loop's time in which the step waited for a batch; of a GPU, in which it stood still between
        steps."""
        if not self._loop_seconds:
            return 0.0
        waited = self.seconds[WAIT] + self.seconds[HOST_TO_DEVICE] if self._gaps is None else self._gaps.seconds
        return waited / self._loop_seconds

    @property
    def _loop_seconds(self) -> float:
        return sum(self.seconds[stage] for stage in _STAGES if stage not in (EVALUATE, SAVE))


def advice(clock: Clock, backend: str, device: str, side: int) -> str:
    """One sentence: what bounds this training, and the remedy. side: the longest of the baked images, in pixels."""
    seconds, fractions = clock.seconds, clock.fractions
    rate, stalled = clock.images_per_second, clock.stall_fraction
    if not fractions or not rate:
        return "too short to say what bounds it"
    if stalled > _STALLED and seconds[WAIT] >= seconds[HOST_TO_DEVICE]:
        told = f"the loader delivers {rate:,.0f} images/s, the {device} takes {rate / (1 - stalled):,.0f}"
        slow = BACKENDS[backend]
        remedies = [slow.bake_less] * (side > _LARGE) + [slow.when_slow]
        return f"{told}: {', or '.join(filter(None, remedies))}"
    if stalled > _STALLED:
        share = 100 * stalled
        others = " or ".join(name for name, other in BACKENDS.items() if other.decodes_on_gpu)
        return f"copying batches to the {device} takes {share:.0f} % of the loop: data.backend={others} decodes on it"
    for stage, remedy in ((EVALUATE, "raise train.evaluate_epochs"), (SAVE, "raise run.checkpoint_minutes")):
        if fractions[stage] > _MUCH and sum(seconds.values()) > _SHORT:
            return f"{100 * fractions[stage]:.0f} % of the time goes into stage '{stage}': {remedy}"
    if device == "cpu" and seconds[AUGMENT] > seconds[STEP]:
        return f"augmentation takes longer than the step ({rate:,.0f} images/s together): drop what is not needed"
    return f"the {device} is the limit at {rate:,.0f} images/s, and the loader keeps up"
