"""The training wing of fastgen. Importing it registers the paper's networks with timm, now or once timm is imported."""

from fastgen.models import timm_watch

timm_watch.register_with_timm()
