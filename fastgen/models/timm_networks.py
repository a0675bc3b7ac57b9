"""The paper's networks as entry points of timm. Importing this module registers them."""

import functools
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from fastgen.models import NETWORKS, make
from pipelines.errors import UserError

default_cfgs = generate_default_cfgs(
    {
        name: {"input_size": (3, 28, 28), "num_classes": 10, "pool_size": None, "classifier": "classifier"}
        for name in NETWORKS
    }
)


def _register(name: str) -> None:
    def entry_point(pretrained: bool = False, **arguments: Any) -> Any:
        if pretrained:
            raise UserError(f"{name} has no pretrained weights: the randomization test starts from random ones")
        return build_model_with_cfg(functools.partial(make, name), name, pretrained=False, **arguments)

    entry_point.__name__ = entry_point.__qualname__ = name
    register_model(entry_point)


for _name in NETWORKS:
    _register(_name)
