"""Running loss, accuracy and speed of a training loop, without making it wait for the device."""

import time

import torch
from accelerate import Accelerator

# A few small operations each step are a few percent of a small network: micro-batches are added up so many at once, or
# as soon as so many logits are held (4 MB).
_TOGETHER, _LOGITS = 64, 1 << 20


class Meter:
    """Sums stay on the device until somebody asks for them.

    Two rows of [loss x samples, correct, samples]: since the last line of metrics, and in this epoch. Times are
    those of this process: of the loop, and of waiting for batches within it, from the second step on (the first
    one compiles and allocates).
    """

    def __init__(self, accelerator: Accelerator, restored: list[list[float]] | None) -> None:
        self._accelerator = accelerator
        self._sums = torch.zeros(2, 3, dtype=torch.float64, device=accelerator.device)
        if restored and accelerator.is_main_process:  # they are totals over all processes
            self._sums += torch.tensor(restored, dtype=torch.float64, device=accelerator.device)
        self._losses: list[torch.Tensor] = []
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._loop_seconds = self._waiting_seconds = 0.0
        self.samples = 0  # of all processes, in the loop's time
        self.steps = 0
        self._mark = time.perf_counter()

    def pause(self) -> None:
        """Leave out the time since the last step (evaluation, checkpoint)."""
        self._mark = time.perf_counter()

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """A micro-batch: mean loss (), logits (B, classes), labels int64 (B,)."""
        self._losses.append(loss)
        self._logits.append(logits)
        self._labels.append(labels)
        if len(self._losses) == _TOGETHER or len(self._losses) * logits.numel() >= _LOGITS:
            self._sum_up()

    def _sum_up(self) -> None:
        if self._losses:
            counts = torch.tensor([len(labels) for labels in self._labels], dtype=torch.float64)
            counts = counts.to(self._sums.device, non_blocking=True)
            losses = torch.stack(self._losses).double()
            correct = (torch.cat(self._logits).argmax(1) == torch.cat(self._labels)).sum()
            self._sums += torch.stack([losses @ counts, correct.double(), counts.sum()])
            self._losses, self._logits, self._labels = [], [], []

    def step(self, samples: int, waited_seconds: float) -> None:
        """An optimizer step over a global batch of `samples` is done."""
        now = time.perf_counter()
        self.steps += 1
        if self.steps > 1:
            self._loop_seconds += now - self._mark
            self._waiting_seconds += waited_seconds
            self.samples += samples
        self._mark = now

    def drain(self) -> None:
        """Wait for what the device still has to do, and count that time as the loop's, which has run ahead of it."""
        if self._sums.device.type == "cuda":
            torch.cuda.synchronize(self._sums.device)
        if self.steps > 1:
            self._loop_seconds += time.perf_counter() - self._mark
        self.pause()

    def totals(self) -> list[list[float]]:
        """Both rows over all processes; every process must ask. Waits for the device."""
        self._sum_up()
        return self._accelerator.reduce(self._sums.clone(), "sum").tolist()

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

    @property
    def images_per_second(self) -> float:
        """Of all processes together."""
        return self.samples / self._loop_seconds if self._loop_seconds else 0.0

    @property
    def data_stall_fraction(self) -> float:
        return self._waiting_seconds / self._loop_seconds if self._loop_seconds else 0.0
