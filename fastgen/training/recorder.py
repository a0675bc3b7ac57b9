"""Records what each training sample did in each epoch, on the device and almost for free.

The recorder reads the logits that the training step computed: in training mode, with augmentation and dropout, before
the step's update. Toneva et al., Pleiss et al. and Swayamdipta et al. (`fastgen.runs.dynamics`) define their measures
on these logits, so no further pass over the data is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from fastgen.runs import dynamics as files
from fastgen.training.data import Data
from fastgen.training.watching import Watcher
from pipelines.backends import Batch

# Measuring takes a dozen small operations on the device. In each step they would cost percents of a small network's
# time, so the recorder keeps micro-batches until they have this many logits (16 MB of float32).
_MOST_LOGITS = 1 << 22
_SEEN = files.MEASURES.index("seen")


class Recorder(Watcher):
    """One row per training sample, at its sample index. One process trains on a sample in an epoch; in the others its
    row is zero, so that the sum over the processes is exact.

    measures: float32 (samples, len(MEASURES)), of this epoch. latest: float32 (samples, classes), the probabilities
    when each sample was last trained on (NaN: never), and total their sum over the epochs before, the same on every
    process; both None for a set above MOST_PROBABILITIES.
    """

    def __init__(self, accelerator: Accelerator, data: Data, run_dir: Path) -> None:
        self._accelerator, self._folder = accelerator, run_dir / files.FOLDER
        columns = data.baked.splits["train"].columns
        rows = np.argsort(columns["index"])
        self._given, self._true = (columns[name][rows] for name in (data.spec.labels.column_name, "clean_label"))
        samples, classes = len(rows), data.classes
        on_device = {"dtype": torch.float32, "device": accelerator.device}
        self._measures = torch.zeros(samples, len(files.MEASURES), **on_device)
        keep = samples * classes <= files.MOST_PROBABILITIES
        self._latest = torch.full((samples, classes), torch.nan, **on_device) if keep else None
        self._total = torch.zeros(samples, classes, **on_device) if keep else None
        self._pending: list[tuple[torch.Tensor, ...]] = []  # logits, label, clean label, index

    @property
    def keeps_probabilities(self) -> bool:
        return self._latest is not None

    def start(self, epoch: int) -> None:
        """Begin, or go on, in `epoch` (from 0). It and later ones are recorded anew, so their files are deleted."""
        if self._accelerator.is_main_process:
            files.write_labels(self._folder, self._given, self._true)
            files.forget_from(self._folder, epoch + 1)

    def batch(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> None:
        """Keep what measuring needs; measure when _MOST_LOGITS have come together."""
        self._pending.append((logits, batch.label, batch.clean_label, batch.index))
        if len(self._pending) * logits.numel() >= _MOST_LOGITS:
            self._work_off()

    def epoch(self, epoch: int) -> None:
        """Write the epoch's file, and begin the next epoch."""
        self._latest, self._total = self._write(epoch)
        self._measures.zero_()

    def _write(self, epoch: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Write all processes' samples of `epoch` (from 0). Returns `latest` over all processes, and `total` with this
        epoch."""
        measures, latest = self._merged()
        total = self._total
        if latest is not None and total is not None:
            total = total + latest.where(measures[:, _SEEN, None] > 0, 0)
        if self._accelerator.is_main_process:
            files.write_epoch(self._folder, epoch + 1, measures.cpu().numpy())
        return latest, total

    def finish(self, epoch: int, offset: int, left_out: torch.Tensor | None) -> None:
        """End the run `offset` steps into `epoch` (from 0): write that part of the epoch, and one row per sample.

        left_out: the evaluator's `left_out_probabilities`, where data.subset leaves samples out."""
        # A part of an epoch stays out of `self._total`: a longer run, which goes on from here, adds the whole.
        latest, total = self._write(epoch) if offset else (self._merged()[1], self._total)
        if self._accelerator.is_main_process:
            if latest is not None and total is not None:
                files.write_probabilities(self._folder, files.LATEST, latest.cpu().numpy())
                mean = total / total.sum(1, keepdim=True)  # those of an epoch add up to 1
                files.write_probabilities(self._folder, files.MEAN, mean.cpu().numpy())
            if left_out is not None:
                files.write_probabilities(self._folder, files.OUT_OF_SAMPLE, left_out.cpu().numpy())
            files.write_samples(self._folder.parent)

    def state_dict(self) -> dict[str, Any]:
        """The same on every process. Called by all processes."""
        return dict(zip(("measures", "latest"), self._merged(), strict=True)) | {"total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue, on any number of processes."""
        if self._accelerator.is_main_process:  # the state is the sum over all processes
            self._measures.copy_(state["measures"])
        if self._latest is not None:
            self._latest.copy_(state["latest"])
        if self._total is not None:
            self._total.copy_(state["total"])

    def _merged(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`measures` and `latest` over all processes, in new tensors."""
        self._work_off()
        measures = self._accelerator.reduce(self._measures, "sum")
        if self._latest is None:
            return measures, None
        mine, anyones = (rows[:, _SEEN, None] > 0 for rows in (self._measures, measures))
        latest = self._accelerator.reduce(self._latest.where(mine, 0), "sum")
        return measures, latest.where(anyones, self._latest)

    def _work_off(self) -> None:
        if not self._pending:
            return
        logits, label, clean_label, index = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        self._measures[index], probabilities = measure(logits.float(), label, clean_label)
        if self._latest is not None:
            self._latest[index] = probabilities


def measure(logits: torch.Tensor, label: torch.Tensor, clean_label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch's measures, float32 (B, len(MEASURES)), and the probabilities of all classes, float32 (B, classes).

    logits: float32 (B, classes). label, clean_label: int64 (B,), given and true.
    """
    given = label[:, None]
    log_probabilities = logits.log_softmax(1)
    predicted = logits.argmax(1)
    found = {
        "loss_nats": -log_probabilities.gather(1, given),
        "probability": log_probabilities.gather(1, given).exp(),
        "margin": logits.gather(1, given) - logits.scatter(1, given, -torch.inf).amax(1, keepdim=True),
        "correct_given": (predicted == label)[:, None],
        "correct_true": (predicted == clean_label)[:, None],
        "seen": torch.ones_like(given),
    }
    return torch.cat([found[name].float() for name in files.MEASURES], 1), log_probabilities.exp()
