"""The interface of all that watches the loop: the meter, the recorder, the display, benchmarks, tests."""

import torch

from fastgen.training.position import Position
from pipelines.backends import Batch


class Watcher:
    """The loop calls these methods after each micro-batch, optimizer step and epoch, in this order, and waits."""

    def batch(self, batch: Batch, logits: torch.Tensor, loss: torch.Tensor) -> None:
        """A micro-batch has its gradients. logits (B, classes) in training mode, loss () the mean in nats; detached."""

    def step(self, position: Position) -> None:
        """An optimizer step is done, and counted in `position`."""

    def epoch(self, epoch: int) -> None:
        """Epoch `epoch` (from 0) has ended."""
