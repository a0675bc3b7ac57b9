"""Optimizers, and the learning rate as a function of the position in the run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.optim import RMSpropTF, param_groups_weight_decay

from fastgen.recipe import OptimSpec, ScheduleSpec
from pipelines.registry import Registry

Parameters = list[torch.nn.Parameter] | list[dict[str, Any]]
OPTIMIZERS: Registry[Callable[[Parameters, OptimSpec], torch.optim.Optimizer]] = Registry("optim.name")
SCHEDULES: Registry[Callable[[ScheduleSpec, int, int, int], float]] = Registry("schedule.kind")


def make_optimizer(network: torch.nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    """The optimizer of a recipe, in PyTorch's fused form where there is one: one pass over memory for each parameter.

    Weight decay is added to the gradient (but adamw's, which is decoupled), and with optim.decay_all=false applies to
    tensors of more than one dimension alone, as TensorFlow's slim regularises convolutions and linear layers.
    """
    parameters: Parameters = list(network.parameters())
    if not spec.decay_all:
        parameters = param_groups_weight_decay(network, spec.weight_decay)  # type: ignore[assignment]
    return OPTIMIZERS[spec.name](parameters, spec)


def learning_rate(spec: ScheduleSpec, base: float, position: int, epoch_samples: int, total: int) -> float:
    """The rate for the step that starts at `position`.

    base: optim.lr. position: samples since the run's start, counted as epoch * epoch_samples + offset, so that a
    period of one epoch ends exactly with it. epoch_samples: size of the training set. total: length of the run.
    """
    rate = base * SCHEDULES[spec.kind](spec, position, epoch_samples, total)
    if position < spec.warmup_samples:
        rate *= position / spec.warmup_samples
    return rate


OPTIMIZERS.add(
    "sgd",
    lambda parameters, spec: torch.optim.SGD(
        parameters,
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=True,
    ),
)
OPTIMIZERS.add(
    "adamw",
    lambda parameters, spec: torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True),
)
OPTIMIZERS.add(
    "rmsprop",
    lambda parameters, spec: RMSpropTF(  # epsilon under the root, mean of squares from 1, rate inside the momentum
        parameters,
        lr=spec.lr,
        alpha=spec.decay,
        eps=spec.eps,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
    ),
)

SCHEDULES.add("constant", lambda spec, position, epoch_samples, total: 1.0)
SCHEDULES.add(
    "exponential",
    lambda spec, position, epoch_samples, total: spec.factor ** (position // (spec.every_samples or epoch_samples)),
)
SCHEDULES.add(
    "cosine",
    lambda spec, position, epoch_samples, total: 0.5 * (1 + math.cos(math.pi * min(1.0, position / total))),
)
