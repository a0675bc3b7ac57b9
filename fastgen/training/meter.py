"""Running loss and accuracy of a training loop, without making it wait for the device."""

import torch
from accelerate import Accelerator

from fastgen.training.watching import Watcher
from pipelines.backends import Batch

# Adding up takes a few small operations on the device. In each step they would cost percents of a small network's
# time, so the meter keeps micro-batches until it has this many of them, or this many logits (4 MB of float32).
_MOST_BATCHES, _MOST_LOGITS = 64, 1 << 20


class Meter(Watcher):
    """Two rows of [loss x samples, correct, samples]: since the last line of metrics, and in this epoch.

    The sums stay on the device until somebody asks for them.
    """

    def __init__(self, accelerator: Accelerator, restored: list[list[float]]) -> None:
        """restored: the `totals` of a checkpoint, or an empty list."""
        self._accelerator = accelerator
        self._sums = torch.zeros(2, 3, dtype=torch.float64, device=accelerator.device)
        if restored and accelerator.is_main_process:  # totals are sums over all processes
            self._sums += torch.tensor(restored, dtype=torch.float64, device=accelerator.device)
        self._pending: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # loss, logits, labels

    def batch(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> None:
        self._pending.append((loss, logits, batch.label))
        if len(self._pending) == _MOST_BATCHES or len(self._pending) * logits.numel() >= _MOST_LOGITS:
            self._sum_up()

    def _sum_up(self) -> None:
        if self._pending:
            losses, logits, labels = zip(*self._pending, strict=True)
            counts = torch.tensor([len(each) for each in labels], dtype=torch.float64)
            counts = counts.to(self._sums.device, non_blocking=True)
            correct = (torch.cat(logits).argmax(1) == torch.cat(labels)).sum()
            self._sums += torch.stack([torch.stack(losses).double() @ counts, correct.double(), counts.sum()])
            self._pending = []

    def wait(self) -> None:
        """Wait until the device has done all its work. The loop runs ahead of it."""
        if self._sums.device.type == "cuda":
            torch.cuda.synchronize(self._sums.device)

    def totals(self) -> list[list[float]]:
        """Both rows over all processes; every process must ask. Waits for the device."""
        self._sum_up()
        totals: list[list[float]] = self._accelerator.reduce(self._sums.clone(), "sum").tolist()
        return totals

    def take_line(self) -> tuple[float, float]:
        """Mean loss (nats) and accuracy (percent) since the last line, over all processes; starts a new line."""
        loss, correct, count = self.totals()[0]
        self._sums[0].zero_()
        return loss / count, 100 * correct / count

    def take_epoch(self) -> float:
        """Running accuracy of the epoch (percent, weights changing all along); starts a new epoch."""
        _, correct, count = self.totals()[1]
        self._sums[1].zero_()
        return 100 * correct / count
