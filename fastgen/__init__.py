"""The training wing of fastgen. Importing it registers the paper's networks with timm."""

from fastgen import models as models
