"""The paper's networks as entry points of timm. Importing this module registers them."""

import functools
from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from fastgen.models import INCEPTION_V3, NETWORKS, make
from pipelines.errors import UserError

_SMALL: dict[str, Any] = {"input_size": (3, 28, 28), "num_classes": 10, "pool_size": None, "classifier": "classifier"}
_LARGE: dict[str, Any] = {
    "input_size": (3, 299, 299),
    "num_classes": 1000,
    "pool_size": (8, 8),
    "crop_pct": 0.875,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "first_conv": "Conv2d_1a_3x3.conv",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({**{name: dict(_SMALL) for name in NETWORKS}, INCEPTION_V3: _LARGE})


def _slim_inception_v3(**arguments: Any) -> Any:
    from fastgen.models.inception_v3 import SlimInceptionV3  # this module is imported with timm, before timm's networks

    return SlimInceptionV3(**arguments)


def _register(name: str, constructor: Callable[..., Any]) -> None:
    def entry_point(pretrained: bool = False, **arguments: Any) -> Any:
        if pretrained and not arguments.get("pretrained_cfg"):  # which the Hub's, or a folder's, come with
            raise UserError(f"{name} has no pretrained weights: the randomization test starts from random ones")
        return build_model_with_cfg(constructor, name, pretrained=pretrained, **arguments)

    entry_point.__name__ = entry_point.__qualname__ = name
    register_model(entry_point)


for _name in NETWORKS:
    _register(_name, functools.partial(make, _name))
_register(INCEPTION_V3, _slim_inception_v3)
