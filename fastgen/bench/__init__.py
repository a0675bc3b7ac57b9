"""fastgen bench: what loaders, bakes and trainings deliver, beside what a user would pick instead."""

from pipelines.registry import UserError, did_you_mean


def bench(arguments: list[str]) -> None:
    """loaders | bake | train | peers, with the options of each. Raises UserError for mistakes."""
    from fastgen.bench.baking import baking
    from fastgen.bench.loaders import loaders
    from fastgen.bench.peers import peers
    from fastgen.bench.training import train

    commands = {"loaders": loaders, "bake": baking, "train": train, "peers": peers}
    if not arguments or arguments[0] not in commands:
        near = f": {did_you_mean(arguments[0], commands)}" if arguments else ""
        raise UserError(f"name what to measure, one of {', '.join(commands)}{near}")
    commands[arguments[0]](arguments[1:])
