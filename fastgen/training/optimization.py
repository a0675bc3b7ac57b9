"""Optimizers."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from fastgen.recipe.schema import OptimSpec


def make_optimizer(network: torch.nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """The optimizer of a recipe, in PyTorch's fused form where there is one: one pass over memory for each parameter.

    Weight decay is added to the gradient (but adamw's, which is decoupled), and with optim.decay_all=false applies to
    tensors of more than one dimension alone, as TensorFlow's slim regularises convolutions and linear layers.
    """
    parameters: list[Any] = list(network.parameters())
    if not spec.decay_all:
        from timm.optim import param_groups_weight_decay  # timm takes seconds to import

        parameters = param_groups_weight_decay(network, spec.weight_decay)
    if spec.name == "adamw":
        return torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)
    if spec.name == "rmsprop":
        from timm.optim import RMSpropTF  # epsilon under the root, mean of squares from 1, rate inside the momentum

        return RMSpropTF(
            parameters,
            lr=spec.lr,
            alpha=spec.decay,
            eps=spec.eps,
            momentum=spec.momentum,
            weight_decay=spec.weight_decay,
        )
    assert spec.name == "sgd", "validate has seen to it"
    return torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=True,
    )


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
