"""The training wing of fastgen, and what it offers to Python: `train`, `bake`, `open`, `load_run`.

Importing it registers the paper's networks with timm, now or once timm is imported.

Registering calls timm, and importing timm takes seconds, which commands that need no network should not spend. So the
finder below adds the registration to timm's own import. wrapt's `when_imported` does the same, but importing wrapt
takes several times as long as starting Python and importing fastgen (it imports asyncio).

PyTorch's threads wait busily for their next work, by libgomp's default for milliseconds. Where other processes want the
same cores, they take them from the thread that they wait for, and a small network trains at a tenth of its speed. They
wait here as long as libgomp lets threads wait that outnumber the cores (benchmarks/threads.py).
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgen.api import UserError, bake, load_run, open, train

__all__ = ["UserError", "bake", "load_run", "open", "train"]
_ENTRY_POINTS = "fastgen.models.timm_networks"  # importing it registers


def __getattr__(name: str) -> Any:
    """What `fastgen.api` offers, which is imported when it is asked for."""
    if name in __all__:
        return getattr(importlib.import_module("fastgen.api"), name)
    raise AttributeError(f"module 'fastgen' has no attribute '{name}'")


class _TimmFinder:
    """Finds timm by the finders behind it, and lets timm's loader register the networks after it has run timm."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next((found for finder in behind if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                importlib.import_module(_ENTRY_POINTS)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"  # read when PyTorch is imported; libgomp's own default is 300,000

if sys.modules.get("timm"):
    importlib.import_module(_ENTRY_POINTS)
else:
    sys.meta_path.insert(0, _TimmFinder())
