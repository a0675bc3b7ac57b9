"""What training does to a network: gradients of micro-batches, clipping them, and steps of the optimizer."""

from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator

from fastgen.optim.optimizers import OptimSpec, add_clipped_decay, make_optimizer
from fastgen.recipe.schema import TrainSpec
from fastgen.training.objective import logits_of, training_loss


class Learner:
    """A network and its optimizer, prepared by accelerate.

    bare: the network itself. network: the same as accelerate wraps it for several processes.
    """

    def __init__(
        self, accelerator: Accelerator, bare: torch.nn.Module, optim: OptimSpec, train: TrainSpec, captured: bool
    ) -> None:
        """captured: steps will run as a CUDA graph, so the learning rate has to be a number on the GPU."""
        self.bare, self._accelerator, self._clip, self._train = bare, accelerator, optim.clip, train
        self.network, self.optimizer = accelerator.prepare(bare, make_optimizer(bare, optim))
        # Accelerate's own step searches the disk for a package in each call (70 microseconds). Only loss scaling needs
        # it.
        self._step = self.optimizer.step if accelerator.scaler is not None else self.optimizer.optimizer.step
        self._rate = torch.tensor(optim.lr, device=accelerator.device) if captured else None
        self._filled = optim.lr  # what `_rate` holds

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next steps."""
        if self._rate is not None and rate != self._filled:
            self._rate.fill_(rate)
            self._filled = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate if self._rate is None else self._rate
            if "capturable" in group:  # adamw's, which counts its steps on the GPU then
                group["capturable"] = self._rate is not None

    def gradients(
        self, images: torch.Tensor, labels: torch.Tensor, last: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add a micro-batch's gradients to the step's earlier ones, and return its logits (B, classes) and loss.

        images: the network's input. labels: as `training_loss` takes them. last: the processes share the sum, as this
        is the step's last micro-batch.
        """
        with self._sharing(last):
            output = self.network(images)
            loss = training_loss(output, labels, self._train)
            self._accelerator.backward(loss)
        return logits_of(output).detach(), loss.detach()

    def learn(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A whole step on one batch. images: the network's input. Returns as `gradients`."""
        try:
            found = self.gradients(images, labels)
            self.step()
        finally:
            self.bare.zero_grad()  # also where it failed, so that a step can follow
        return found

    def _sharing(self, last: bool) -> AbstractContextManager[None]:
        # accelerate's own `accumulate` would count micro-batches a second time.
        return nullcontext() if last else self._accelerator.no_sync(self.network)

    def step(self) -> None:
        """A step of the optimizer along the gradients, clipped where the recipe says so, which are gone then."""
        if self._clip is not None:
            self._clip_gradients(self._clip)
        self._step()
        self.bare.zero_grad()

    def _clip_gradients(self, largest: float) -> None:
        """Scale the gradients down to the norm `largest` of all together, weight decay included where it is coupled.

        In several processes, the gradients are those that they share, so each adds the same decay and clips alike.
        Nothing here waits for the device.
        """
        self._accelerator.unscale_gradients(self.optimizer)  # of float16, whose loss is scaled: decay is not
        add_clipped_decay(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.bare.parameters(), largest)
