"""Optimizers, by the names that recipes give them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError, did_you_mean
from pipelines.registry import Registry

if TYPE_CHECKING:
    import torch

# all: every parameter. weights: spares biases and normalisation (tensors of one dimension), as TensorFlow's slim.
# hidden: the weights of linear layers but the classifier's, as TensorFlow's CIFAR-10 tutorial and slim's cifarnet.
DECAYED = ("all", "weights", "hidden")
_CLIPPED_DECAY = "clipped_weight_decay"  # of a group of parameters: the weight decay that `add_clipped_decay` adds


@dataclass
class OptimSpec:
    """The optimizer (optim.*).

    clip: the largest Euclidean norm of all gradients together; longer ones are scaled down to it. The weight decay of
    sgd and rmsprop is a part of them, as it is in TensorFlow's slim, where it is a part of the loss; adamw's is none.
    The global norm is PyTorch's usual: "Rethinking the Inception Architecture", which trained with 2.0, does not say
    which norm it means, and slim.learning.clip_gradient_norms clips each variable's gradient by its own.
    """

    name: str = "sgd"  # sgd, adamw, or rmsprop as TensorFlow defines it
    lr: float = 0.1  # learning rate, which the schedule multiplies
    momentum: float = 0.9  # of sgd and rmsprop
    nesterov: bool = False  # Nesterov's momentum, of sgd
    decay: float = 0.9  # of rmsprop's running mean of squared gradients
    eps: float = 1.0  # of rmsprop, under the root
    weight_decay: float = 0.0  # what is added to a gradient for each unit of its weight (adamw: taken off the weight)
    decay_on: str = "all"  # what weight decay shrinks: all, weights (no biases), hidden (linear layers but the last)
    clip: float | None = None  # largest norm of the gradient

    def validate(self) -> None:
        """Raises UserError for an unknown optimizer and for a setting that it does not have."""
        optimizer = OPTIMIZERS[self.name]
        if self.decay_on not in DECAYED:
            raise UserError(f"unknown optim.decay_on '{self.decay_on}': {did_you_mean(self.decay_on, DECAYED)}")
        if self.nesterov and (not optimizer.nesterov or self.momentum == 0):
            able = " or ".join(name for name, other in OPTIMIZERS.items() if other.nesterov)
            raise UserError(f"optim.nesterov=true needs optim.name={able} and optim.momentum above 0")


@dataclass(frozen=True)
class Optimizer:
    """make: (parameters, or groups of them, spec) -> the optimizer. nesterov: whether it has Nesterov's momentum.
    couples: whether it adds weight decay to the gradient."""

    make: Callable[[list[Any], OptimSpec], "torch.optim.Optimizer"]
    nesterov: bool = False
    couples: bool = False


OPTIMIZERS: Registry[Optimizer] = Registry("optim.name")


def make_optimizer(network: "torch.nn.Module", spec: OptimSpec) -> "torch.optim.Optimizer":
    """The optimizer of a recipe, in PyTorch's fused form where there is one: one pass over memory for each parameter.

    sgd and rmsprop add weight decay to the gradient; adamw decouples it. With optim.clip, `add_clipped_decay` adds it
    in their place, before gradients are clipped.
    """
    shrunk: list[Any] = []
    spared: list[Any] = []
    for name, parameter in network.named_parameters():
        (shrunk if _is_decayed(network, name, parameter.dim(), spec.decay_on) else spared).append(parameter)
    if spec.weight_decay > 0 and not shrunk:
        raise UserError(f"optim.decay_on={spec.decay_on}: the network has no such parameters; set another, or no decay")
    optimizer = OPTIMIZERS[spec.name]
    clipped = optimizer.couples and spec.clip is not None and spec.weight_decay > 0
    if not spared and not clipped:
        return optimizer.make(shrunk, spec)
    key = _CLIPPED_DECAY if clipped else "weight_decay"
    groups = [{"params": spared, key: 0.0}, {"params": shrunk, key: spec.weight_decay}]
    spec = replace(spec, weight_decay=0.0) if clipped else spec
    return optimizer.make([group for group in groups if group["params"]], spec)


def add_clipped_decay(optimizer: "torch.optim.Optimizer") -> None:
    """Add the weight decay to the gradients that are about to be clipped; for a step, once, after the last backward."""
    import torch

    for group in optimizer.param_groups:
        decay = group.get(_CLIPPED_DECAY, 0.0)
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if decay and parameters:
            with torch.no_grad():
                torch._foreach_add_([parameter.grad for parameter in parameters], parameters, alpha=decay)


def _is_decayed(network: "torch.nn.Module", name: str, dimensions: int, decay_on: str) -> bool:
    if decay_on == "all":
        return True
    if decay_on == "weights":
        return dimensions > 1
    import torch

    module = network.get_submodule(name.rpartition(".")[0])
    heads = getattr(network, "get_classifier", lambda: ())()
    heads = heads if isinstance(heads, tuple | list) else (heads,)  # timm's distilled networks have two
    return dimensions > 1 and isinstance(module, torch.nn.Linear) and not any(module is head for head in heads)


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


OPTIMIZERS.add("sgd", Optimizer(_sgd, nesterov=True, couples=True))
OPTIMIZERS.add("adamw", Optimizer(_adamw))
OPTIMIZERS.add("rmsprop", Optimizer(_rmsprop, couples=True))
