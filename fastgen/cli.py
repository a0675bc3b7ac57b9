"""The `fastgen` command."""

import sys
from collections.abc import Callable

_HELP = """fastgen: the randomization test of "Understanding deep learning requires rethinking generalization"

  fastgen train   recipe=NAME [key=value ...]   train (also: accelerate launch fastgen/train.py recipe=NAME ...)
  fastgen bake    recipe=NAME [key=value ...]   make the recipe's baked set, or find it
  fastgen verify  PATH | recipe=NAME ...        hash every byte of a baked set and compare with its manifest
  fastgen inspect PATH | recipe=NAME ...        what is in a baked set [--images OUT.png: a sheet of samples]
  fastgen export  PATH | recipe=NAME ... --to webdataset [--output FOLDER] [--shard-mb 512]
  fastgen sweep   recipe=NAME key=a,b,c ...     all combinations [--jobs N] [--output FOLDER] [--wandb-file FILE.yaml]
  fastgen reproduce table1 | table2 | table4 | fig1a | fig1b | fig1c | fig2a | fig2b | rademacher | all
                  [--models a,b] [--seeds 0,1,2] [--scale smoke] [--jobs N] [--output FOLDER] [--show] [key=value ...]
  fastgen reproduce table3 | theorem1 | minnorm [--models a,b] [--output FOLDER] [--show] [key=value ...]
                  keys: seed, data.limit, data.limit_test, data.root, kernel.* (table3), sgd.epochs (minnorm)
  fastgen report  RUN... [--output FILE.html]   what runs did, in one file: tables, curves, sample images
                  RUN... --wandb                the same as a W&B report; prints its link
  fastgen dynamics RUN_DIR                      how clean and corrupted samples were learned (train.dynamics=true)
  fastgen bench loaders | bake | peers | train  what this machine's loaders, bakes and trainings deliver, beside others
                  [--only "a; b"] [--repeats N] [--output FOLDER], and for
                  loaders: [--images FOLDER] [--size 224] [--batch 64] [--samples 2000] [--workers N]
                  bake:    [--images FOLDER] [--samples 1000] [--workers N]
                  peers:   [--steps 800] [--precision fp32|bf16]
                  train:   [--images FOLDER] [--samples 1024] [--steps 20] [recipe=NAME] [key=value ...]
  fastgen doctor                                what is installed, which devices and data sets are found

  --print   show the resolved recipe and stop        --help   this text, recipes and keys
"""


def _show_help() -> None:
    from fastgen.recipe.load import known_recipes
    from fastgen.recipe.schema import known_keys

    print(_HELP)
    print("recipes (or a path to a YAML file):")
    for name in known_recipes():
        print(f"  {name}")
    print("\nkeys and defaults:")
    for key, default in known_keys().items():
        print(f"  {key}={'null' if default is None else default}")


def _train(arguments: list[str]) -> None:
    from fastgen.recipe.load import parse

    recipe = parse(arguments)  # before anything is started
    from fastgen.training.loop import train

    train(recipe)


def _bake(arguments: list[str]) -> None:
    from fastgen.recipe.load import parse
    from fastgen.sets import bake_recipe, show_summary

    show_summary(bake_recipe(parse(arguments)))


def _verify(arguments: list[str]) -> None:
    from fastgen.sets import verify

    verify(arguments)


def _inspect(arguments: list[str]) -> None:
    from fastgen.sets import inspect

    inspect(arguments)


def _export(arguments: list[str]) -> None:
    from fastgen.sets import export_set

    export_set(arguments)


def _sweep(arguments: list[str]) -> None:
    from fastgen.sweeps.sweep import sweep

    sweep(arguments)


def _reproduce(arguments: list[str]) -> None:
    from fastgen.paper.reproduce import reproduce

    reproduce(arguments)


def _report(arguments: list[str]) -> None:
    from fastgen.report.report import report

    report(arguments)


def _dynamics(arguments: list[str]) -> None:
    from fastgen.runs.dynamics import show

    show(arguments)


def _bench(arguments: list[str]) -> None:
    from fastgen.bench import bench

    bench(arguments)


def _doctor(arguments: list[str]) -> None:
    from fastgen.doctor import doctor

    doctor()


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "bake": _bake,
    "verify": _verify,
    "inspect": _inspect,
    "export": _export,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "report": _report,
    "dynamics": _dynamics,
    "bench": _bench,
    "doctor": _doctor,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0; 2 for the user's mistakes, told in one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or "--help" in arguments or "-h" in arguments:
        _show_help()
        return 0 if arguments else 2
    from fastgen.errors import exit_code

    return exit_code(lambda: _run(*arguments))


def _run(command: str, *rest: str) -> None:
    from pipelines.errors import UserError, did_you_mean

    if command not in COMMANDS:
        raise UserError(f"unknown command '{command}': {did_you_mean(command, COMMANDS)}")
    if "--print" in rest:
        from fastgen.recipe.load import parse

        print(parse([a for a in rest if a != "--print"]).to_yaml(), end="")
        return
    COMMANDS[command](list(rest))


if __name__ == "__main__":
    sys.exit(main())
