"""One step of an optimizer: gradients of several micro-batches, and taking it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer


def adding_gradients(accelerator: Accelerator, network: torch.nn.Module, last: bool) -> AbstractContextManager[None]:
    """A context that adds a micro-batch's gradients to the step's earlier ones.

    last: the processes share the sum, as this is the step's last micro-batch. accelerate's own `accumulate` would count
    micro-batches a second time.
    """
    return nullcontext() if last else accelerator.no_sync(network)


def step_of(accelerator: Accelerator, optimizer: AcceleratedOptimizer) -> Callable[[], object]:
    """The function that takes a step of a prepared optimizer.

    Accelerate's own step searches the disk for a package in each call (70 microseconds). Only loss scaling needs it.
    """
    step: Callable[[], object] = optimizer.step if accelerator.scaler is not None else optimizer.optimizer.step
    return step
