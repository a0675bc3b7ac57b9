"""The results of an evaluation and of a run: the one place that knows their names and units.

summary.json has the fields of `Summary`; a line of metrics.jsonl has those of `Evaluation`, with the unit behind
the name.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipelines.baked.notes import parsed
from pipelines.durable import read_regular, write_durably
from pipelines.errors import UserError

SUMMARY = "summary.json"
FINISHED, INTERRUPTED = "finished", "interrupted"


def _measured(unit: str) -> Any:
    return field(default=None, metadata={"unit": unit})


@dataclass(frozen=True)
class Evaluation:
    """Loss (nats, against the given label) and accuracy (percent) over every sample exactly once, in evaluation mode.

    train: over the samples that are trained on; left_out: over those that data.subset leaves out.
    clean_part, corrupted_part: over the training samples whose given label is, or is not, the true one. true_labels:
    against true labels. None where there is nothing to measure: no test split, an empty part, signs for labels.
    """

    train_loss: float | None = _measured("nats")
    train_top1: float | None = _measured("percent")
    train_top5: float | None = _measured("percent")
    train_top1_true_labels: float | None = _measured("percent")
    train_top1_clean_part: float | None = _measured("percent")
    train_top1_corrupted_part: float | None = _measured("percent")
    train_top1_corrupted_part_true_labels: float | None = _measured("percent")
    left_out_loss: float | None = _measured("nats")
    left_out_top1: float | None = _measured("percent")
    left_out_top1_true_labels: float | None = _measured("percent")
    test_loss: float | None = _measured("nats")
    test_top1: float | None = _measured("percent")
    test_top5: float | None = _measured("percent")

    def line(self) -> dict[str, float | None]:
        """As metrics.jsonl has it."""
        return {metric(item.name): getattr(self, item.name) for item in fields(Evaluation)}


def metric(name: str) -> str:
    """The key in metrics.jsonl of a field of `Evaluation`."""
    (unit,) = (item.metadata["unit"] for item in fields(Evaluation) if item.name == name)
    return f"{name}_{unit}"


@dataclass(frozen=True, kw_only=True)
class Summary(Evaluation):
    """summary.json: the last evaluation and the results of the run.

    status: FINISHED or INTERRUPTED (by a signal; a checkpoint is there). params: weights and biases. epochs: trained,
    also parts of one. best_*: percent, over all evaluations. interpolation_epoch: of the first evaluation with every
    training sample classified as labelled, None if there was none; fitted_epoch: with at least fitted_at percent of
    them; first_epoch_at: with 99, 99.9 and 100 percent. rademacher_complexity: of random signs, this draw's part of it
    (paper, section 2.2), else None. data_stall_fraction: of the loop's time, spent waiting for batches. time_fractions:
    stage -> part of the counted time. members: how many samples it is trained on. predictions_sha256: of
    predictions.parquet, which train.predictions writes. made_by: versions of fastgen and of what it computes with, and
    the machine.
    """

    status: str
    recipe: str
    seed: int
    params: int
    epochs: float
    steps: int
    best_test_top1: float | None = _measured("percent")
    best_test_top5: float | None = _measured("percent")
    interpolation_epoch: float | None = None
    fitted_at: float = 100.0
    fitted_epoch: float | None = None
    first_epoch_at: dict[str, float | None] = field(default_factory=dict)
    rademacher_complexity: float | None = None
    images_per_second: float
    data_stall_fraction: float
    time_fractions: dict[str, float]
    advice: str
    wall_seconds: float
    processes: int
    device: str
    manifest_sha256: str
    members: int | None = None
    predictions_sha256: str | None = None
    run_dir: str
    made_by: dict[str, str] = field(default_factory=dict)

    @property
    def epoch_at_99(self) -> float | None:
        """Of the first evaluation with 99 percent."""
        return self.first_epoch_at.get("99")

    def time_to(self, key: str) -> tuple[float, bool] | None:
        """Epochs until the event of a key ("fitted_epoch", "epoch_at_99"), and whether it came: else the run trained so
        long without it. None where the run says nothing of it, as it had ended by then."""
        epoch: float | None = getattr(self, key)
        if epoch is not None:
            return epoch, True
        silent = key == "epoch_at_99" and ("99" not in self.first_epoch_at or self.fitted_at < 99)
        return None if silent else (self.epochs, False)

    def write(self, folder: Path) -> None:
        write_durably(folder / SUMMARY, json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> "Summary | None":
        """The summary of a run directory; None while the run has not ended. Raises UserError for a damaged file."""
        path = folder / SUMMARY
        try:
            values = json.loads(read_regular(path))
            values.setdefault("fitted_epoch", values["interpolation_epoch"])  # before there was train.fitted_at
            return parsed(Summary, values)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it and resume the run: it is written again") from None
