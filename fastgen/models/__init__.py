"""The paper's five networks (appendix A), registered with timm: `timm.create_model("fastgen_inception")`."""

from fastgen.models.alexnet import SmallAlexNet
from fastgen.models.inception import SmallInception
from fastgen.models.mlp import MLP

__all__ = ["MLP", "SmallAlexNet", "SmallInception"]
