"""Optimizers, by the names that recipes give them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError
from pipelines.registry import Registry

if TYPE_CHECKING:
    import torch


@dataclass
class OptimSpec:
    """The optimizer (optim.*)."""

    name: str = "sgd"  # sgd, adamw, or rmsprop as TensorFlow defines it
    lr: float = 0.1
    momentum: float = 0.9  # of sgd and rmsprop
    nesterov: bool = False
    decay: float = 0.9  # of rmsprop's running mean of squared gradients
    eps: float = 1.0  # of rmsprop, under the root
    weight_decay: float = 0.0
    decay_all: bool = True  # false: weight decay spares biases and normalisation
    clip: float | None = None  # largest norm of all gradients together

    def validate(self) -> None:
        """Raises UserError for an unknown optimizer and for a setting that it does not have."""
        optimizer = OPTIMIZERS[self.name]
        if self.nesterov and (not optimizer.nesterov or self.momentum == 0):
            able = " or ".join(name for name, other in OPTIMIZERS.items() if other.nesterov)
            raise UserError(f"optim.nesterov=true needs optim.name={able} and optim.momentum above 0")


@dataclass(frozen=True)
class Optimizer:
    """make: (parameters, or groups of them, spec) -> the optimizer. nesterov: whether it has Nesterov's momentum."""

    make: Callable[[list[Any], OptimSpec], "torch.optim.Optimizer"]
    nesterov: bool = False


OPTIMIZERS: Registry[Optimizer] = Registry("optim.name")


def make_optimizer(network: "torch.nn.Module", spec: OptimSpec) -> "torch.optim.Optimizer":
    """The optimizer of a recipe, in PyTorch's fused form where there is one: one pass over memory for each parameter.

    sgd and rmsprop add weight decay to the gradient; adamw decouples it. optim.decay_all=false limits it to tensors of
    more than one dimension, as TensorFlow's slim regularises convolutions and linear layers.
    """
    parameters: list[Any] = list(network.parameters())
    if not spec.decay_all:
        from timm.optim import param_groups_weight_decay  # timm takes seconds to import

        parameters = param_groups_weight_decay(network, spec.weight_decay)
    return OPTIMIZERS[spec.name].make(parameters, spec)


def _sgd(parameters: list[Any], spec: OptimSpec) -> "torch.optim.Optimizer":
    import torch

    momentum: dict[str, Any] = {"momentum": spec.momentum, "nesterov": spec.nesterov}
    return torch.optim.SGD(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True, **momentum)


def _adamw(parameters: list[Any], spec: OptimSpec) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay, fused=True)


def _rmsprop(parameters: list[Any], spec: OptimSpec) -> "torch.optim.Optimizer":
    from timm.optim import RMSpropTF  # epsilon under the root, mean of squares from 1, rate inside the momentum

    return RMSpropTF(
        parameters, lr=spec.lr, alpha=spec.decay, eps=spec.eps, momentum=spec.momentum, weight_decay=spec.weight_decay
    )


OPTIMIZERS.add("sgd", Optimizer(_sgd, nesterov=True))
OPTIMIZERS.add("adamw", Optimizer(_adamw))
OPTIMIZERS.add("rmsprop", Optimizer(_rmsprop))
