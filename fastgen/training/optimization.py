"""One step of an optimizer: gradients of several micro-batches, clipping them, and taking it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from fastgen.optim.optimizers import add_clipped_decay


def adding_gradients(accelerator: Accelerator, network: torch.nn.Module, last: bool) -> AbstractContextManager[None]:
    """A context that adds a micro-batch's gradients to the step's earlier ones.

    last: the processes share the sum, as this is the step's last micro-batch. accelerate's own `accumulate` would count
    micro-batches a second time.
    """
    return nullcontext() if last else accelerator.no_sync(network)


def clip_gradients(
    accelerator: Accelerator, network: torch.nn.Module, optimizer: AcceleratedOptimizer, largest: float
) -> None:
    """Scale the gradients down to the norm `largest` of all together, weight decay included where it is coupled.

    In several processes, the gradients are those that they share, so each adds the same decay and clips alike. Nothing
    here waits for the device.
    """
    accelerator.unscale_gradients(optimizer)  # of float16, whose loss is scaled: decay is not
    add_clipped_decay(optimizer)
    torch.nn.utils.clip_grad_norm_(network.parameters(), largest)


def step_of(accelerator: Accelerator, optimizer: AcceleratedOptimizer) -> Callable[[], object]:
    """The function that takes a step of a prepared optimizer.

    Accelerate's own step searches the disk for a package in each call (70 microseconds). Only loss scaling needs it.
    """
    step: Callable[[], object] = optimizer.step if accelerator.scaler is not None else optimizer.optimizer.step
    return step
