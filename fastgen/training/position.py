"""Where a run stands."""

from dataclasses import dataclass, field

from fastgen.runs.summary import Evaluation

CROSSINGS = (99.0, 99.9, 100.0)  # percent; at 100 every single training sample is classified as labelled


@dataclass
class Position:
    """Where a run stands. `step` is the run's only counter.

    evaluation: the last one, made at step evaluated_step (0: none yet). best_*: percent, over all evaluations.
    crossings: training accuracy in percent, written as "99.9" -> the epochs of the first evaluation that reached it.
    nearly: whether the last epoch fitted nearly all samples. running: the meter's totals. seconds: of training and
    evaluation so far. world_size: number of processes that wrote this checkpoint. labels: the column of the labels
    trained on, whose name changes with the content of a label table ("": not known). members: a digest of which samples
    are trained on ("": all).
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
    labels: str = ""
    members: str = ""

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

    def next_level(self, fitted_at: float) -> float:
        """The lowest training accuracy in percent, of those whose crossing counts, that no evaluation has reached.
        fitted_at: train.fitted_at, the highest that a run waits for."""
        return min(level for level in (*CROSSINGS, fitted_at) if level == fitted_at or self.crossed(level) is None)

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
