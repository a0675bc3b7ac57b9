"""fastgen bench: what loaders, bakes and trainings deliver, beside what a user would pick instead."""

import importlib

from pipelines.errors import UserError, did_you_mean

_COMMANDS = {  # a module and its function: each imports what the others have no use for
    "loaders": ("fastgen.bench.loaders", "loaders"),
    "bake": ("fastgen.bench.bake", "baking"),
    "train": ("fastgen.bench.train", "train"),
    "peers": ("fastgen.bench.peers", "peers"),
}


def bench(arguments: list[str]) -> None:
    """loaders | bake | train | peers, with the options of each. Raises UserError for mistakes."""
    if not arguments or arguments[0] not in _COMMANDS:
        near = f": {did_you_mean(arguments[0], _COMMANDS)}" if arguments else ""
        raise UserError(f"name what to measure, one of {', '.join(_COMMANDS)}{near}")
    module, function = _COMMANDS[arguments[0]]
    getattr(importlib.import_module(module), function)(arguments[1:])
