"""Registers the paper's networks with timm: at once where it is imported already, else as soon as it is.

`timm.create_model("fastgen_inception")` must work after `import fastgen`, but importing timm for that would cost every
command 4 seconds or more (it imports PyTorch, torchvision, which imports PyTorch's compiler, and wandb), and timm knows
no other way to announce networks than calling it. So Python is asked to tell when timm is imported: a finder on
sys.meta_path finds it as usual, and lets its loader register the networks after it has run timm's own code.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from fastgen.models import NETWORKS


class _Watch(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register()

            # On this one loader, which stays of its kind: what else asks it (for sources, resources) finds it as it is.
            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register_with_timm() -> None:
    """Register the networks when timm is there, or once it is. Calling it again changes nothing."""
    if sys.modules.get("timm"):
        _register()
    if not any(type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _register() -> None:
    """In timm's registry as it is now: a timm that was imported anew has a new one."""
    entry_points = "fastgen.models.timm_networks"
    if not importlib.import_module("timm.models").is_model(next(iter(NETWORKS))):
        sys.modules.pop(entry_points, None)
        importlib.import_module(entry_points)
