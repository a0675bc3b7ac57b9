"""The loss of a recipe, also for networks with an auxiliary classifier."""

import torch
import torch.nn.functional as F

from fastgen.recipe.schema import TrainSpec

Output = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def logits_of(output: Output) -> torch.Tensor:
    """The main classifier's logits (B, classes). timm's networks with an auxiliary head return both heads'."""
    return output if isinstance(output, torch.Tensor) else output[0]


def training_loss(output: Output, labels: torch.Tensor, spec: TrainSpec) -> torch.Tensor:
    """Mean cross-entropy in nats with label smoothing, plus train.aux_weight times that of the auxiliary head
    (Szegedy et al., "Rethinking the Inception architecture for computer vision", sections 4 and 7).

    labels: int64 (B,), or of mixed images each class's share, float32 (B, classes).
    """
    loss = F.cross_entropy(logits_of(output), labels, label_smoothing=spec.label_smoothing)
    # Also with the weight 0: processes that share gradients need one for every parameter.
    if not isinstance(output, torch.Tensor):
        loss = loss + spec.aux_weight * F.cross_entropy(output[1], labels, label_smoothing=spec.label_smoothing)
    return loss
