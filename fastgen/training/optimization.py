"""One step of an optimizer: gradients of several micro-batches, and taking it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer


def adding_gradients(accelerator: Accelerator, network: torch.nn.Module, last: bool) -> AbstractContextManager[None]:
    """In this context the gradients of a micro-batch are added to those of the step's earlier ones; with its last one
    the processes share them.

    As accelerate's `accumulate`, but the caller counts: that one finds out anew each time what the loop knows.
    """
    return nullcontext() if last else accelerator.no_sync(network)


def step_of(accelerator: Accelerator, optimizer: AcceleratedOptimizer) -> Callable[[], object]:
    """What takes a step of a prepared optimizer, to be called when the gradients of all micro-batches are there.

    Accelerate's own step also searches the disk for a package each time (70 microseconds). Only scaling the loss needs
    it.
    """
    step: Callable[[], object] = optimizer.step if accelerator.scaler is not None else optimizer.optimizer.step
    return step
