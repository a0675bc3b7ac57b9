"""Inception V3 as TensorFlow's slim trains it: timm's network, with slim's batch norm, pooling and initialisation.

timm's own (`inception_v3`) has batch norm with a scale and PyTorch's momentum of 0.1, average pools that count the
zeros around an image, and weights from a normal distribution that is not cut off (of 0.1 in the auxiliary head's 5x5
convolution too, whose 0.01 it notes at a module that has no weights). Sources: slim's nets/inception_v3.py and
inception_v3_arg_scope as they were in 2016 (weights of standard deviation 0.1; later versions scale them with the
fan-in), and "Rethinking the Inception Architecture for Computer Vision" (Szegedy et al., CVPR 2016).
"""

from typing import Any

import torch
from timm.layers import BatchNormAct2d, trunc_normal_tf_
from timm.models.inception_v3 import InceptionV3
from torch import nn
from torch.nn import functional as F

from fastgen.models.tensorflow import without_scale

_MOMENTUM = 1 - 0.9997  # of batch norm's averages; TensorFlow's decay is the part that is kept
_STDDEV = 0.1  # of the weights, but for the auxiliary head's:
_AUX_CONVOLUTION, _AUX_CLASSIFIER = 0.01, 0.001


class ShiftBatchNormAct2d(BatchNormAct2d):
    """Batch norm with a shift but no scale, then the activation, in timm's place for both.

    slim's batch_norm has scale=False: a ReLU and another convolution follow, which can scale.
    """

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        without_scale(self)


def _norm(num_features: int, **settings: Any) -> ShiftBatchNormAct2d:
    # A function, as timm takes a class that it does not know for a norm without an activation.
    return ShiftBatchNormAct2d(num_features, momentum=_MOMENTUM, **settings)


def _uncounted_padding(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """From means over 3x3 positions with zeros around the image to means over those inside: times 9/6 at an edge, 9/4
    in a corner. TensorFlow leaves padding out of a mean."""
    (pooled,) = inputs
    one = torch.ones_like(pooled[:1, :1])
    inside = F.avg_pool2d(one, kernel_size=3, stride=1, padding=1, divisor_override=1)  # counts, exact in bfloat16 too
    return (pooled * (9 / inside),)


class SlimInceptionV3(InceptionV3):
    """For 1000 classes 23,817,352 parameters, and 27,143,152 with the auxiliary head.

    Takes the settings of timm's InceptionV3 (num_classes, in_chans, drop_rate, aux_logits), whose epsilon of batch norm
    is slim's 0.001. Input: float (B, in_chans, H, W), 299 pixels a side with the auxiliary head. Output: logits, float
    (B, num_classes); with aux_logits=True a pair of them, the auxiliary head's the second.
    """

    def __init__(self, **settings: Any) -> None:
        arguments: dict[str, Any] = {**settings, "norm_layer": _norm}  # timm declares it a name, and takes a function
        super().__init__(**arguments)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                small = {"AuxLogits.conv1.conv": _AUX_CONVOLUTION, "AuxLogits.fc": _AUX_CLASSIFIER}
                trunc_normal_tf_(module.weight, std=small.get(name, _STDDEV))  # cut off at two standard deviations
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif name.endswith(".branch_pool"):
                module.register_forward_pre_hook(_uncounted_padding)
