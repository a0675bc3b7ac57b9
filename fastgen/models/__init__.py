"""The paper's five networks for CIFAR-10 (appendix A) and its Inception V3 for ImageNet, by their names in timm.

Importing this module imports no PyTorch, so commands that only read a recipe start at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipelines.registry import Registry

if TYPE_CHECKING:
    from fastgen.models.base import PaperNetwork

NETWORKS: Registry[str] = Registry("model.name")  # name -> the module that has the constructor of that name
NETWORKS.add("fastgen_inception", "fastgen.models.inception")
NETWORKS.add("fastgen_inception_nobn", "fastgen.models.inception")
NETWORKS.add("fastgen_alexnet", "fastgen.models.alexnet")
NETWORKS.add("fastgen_mlp_3x512", "fastgen.models.mlp")
NETWORKS.add("fastgen_mlp_1x512", "fastgen.models.mlp")
INCEPTION_V3 = "fastgen_inception_v3"  # of timm's parts, so timm alone makes it


def is_known(name: str) -> bool:
    """Whether `name`, without a tag of pretrained weights, is one of NETWORKS or of timm's."""
    return name in NETWORKS or importlib.import_module("timm").is_model(name)  # asked last: it takes seconds


def make(name: str, **arguments: Any) -> "PaperNetwork":
    """Make one of NETWORKS as timm.create_model(name, **arguments) does, without importing timm.

    arguments: num_classes, in_chans, img_size, drop_rate.
    """
    network: PaperNetwork = getattr(importlib.import_module(NETWORKS[name]), name)(**arguments)
    return network
