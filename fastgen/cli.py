"""The `fastgen` command: each of its commands takes typed options and calls a function of another module."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from fastgen.errors import exit_code
from pipelines.errors import UserError

# Each command imports what it calls: PyTorch and the rest take seconds.


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code, as `exit_code` has them."""
    arguments = sys.argv[1:] if arguments is None else arguments
    code = exit_code(lambda: _run(arguments or ["--help"]))
    return code if arguments else 2


def _run(arguments: list[str]) -> None:
    command = shlex.join(["fastgen", *arguments])
    try:
        ended = app(_joined(arguments), prog_name="fastgen", standalone_mode=False, obj=command)
    except typer.TyperException as error:
        raise UserError(_one_line(error)) from None
    if ended == 130:  # typer's word for Ctrl-C
        raise KeyboardInterrupt


def _joined(words: list[str]) -> list[str]:
    """Settings that were written with blanks, key = value, as one word each."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined and not joined[-1].startswith("-") else "="
        key = before.removesuffix("=")  # of a setting whose value is still to come
        follows = word.startswith("=") if key == before else "=" not in word and not word.startswith("-")
        if key and "=" not in key and follows:
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _one_line(error: typer.TyperException) -> str:
    """typer's message for a wrong command line, and where to read more."""
    if near := getattr(error, "possibilities", None):  # of an unknown option
        return f"{error.message}, did you mean {' or '.join(near)}?"
    text = error.format_message().rstrip(".").replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    return f"{text} (see `{context.command_path} --help`)" if context else text


class _WithKeys(TyperCommand):
    """A command whose help ends with all recipes, keys and defaults; `fastgen keys` tells what they mean."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from fastgen.recipe.load import known_recipes
        from fastgen.recipe.schema import known_keys

        super().format_help(ctx, formatter)
        defaults = {key: "null" if default is None else default for key, default in known_keys().items()}
        recipes, keys = known_recipes(), (f"{key}={default}" for key, default in defaults.items())
        for heading, lines in (("Recipes (or a path to a YAML file)", recipes), ("Keys and defaults", keys)):
            formatter.write(f"\n{heading}:\n" + "".join(f"  {line}\n" for line in lines))


def _complete_setting(incomplete: str) -> list[str]:
    """Completes recipe=NAME and key=value.

    bash, which leaves its words in the environment, takes "key", "=" and "value" for three words.
    """
    from fastgen.recipe.completion import completions

    words = os.environ.get("COMP_WORDS", "").split("\n")[: int(os.environ.get("COMP_CWORD", 0)) + 1]
    if words[-1] == "=":
        words.append("")  # nothing follows it yet
    if words[-2:-1] != ["="]:
        return completions(incomplete)
    key = f"{words[-3]}="
    return [setting.removeprefix(key) for setting in completions(key + words[-1])]


def _complete_experiment() -> list[str]:
    from fastgen.paper.experiments import names

    return names()


def _complete_export() -> list[str]:
    from pipelines.baked.export import EXPORTS

    return list(EXPORTS)


def _settings(metavar: str) -> Any:
    """Arguments that the usage line shows. They are hidden elsewhere, as the command's text explains them."""
    return typer.Argument(metavar=metavar, default_factory=list, hidden=True, autocompletion=_complete_setting)


def _count(name: str, text: str) -> Any:
    return typer.Option(name, min=1, metavar="N", help=text)


def _path(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text)


def _place(name: str, metavar: str, text: str, usual: str | None = None) -> Any:
    """An option for what a command writes, refused at once where it cannot be written. usual: its default, below the
    folder of outputs."""
    from pipelines.durable import check_place
    from pipelines.locations import outputs_root

    def check(path: Path | None) -> Path | None:
        if path is not None:
            check_place(path if metavar == "FOLDER" else path.parent, f"name another place with {name}")
        return path

    default: Any = {"default_factory": lambda: outputs_root() / usual, "show_default": usual} if usual else {}
    return typer.Option(name, metavar=metavar, help=text, callback=check, **default)


Settings = Annotated[list[str], _settings("recipe=NAME key=value")]
PathOrSettings = Annotated[list[str], _settings("PATH | recipe=NAME key=value")]
Print = Annotated[bool, typer.Option("--print", help="Show the resolved recipe and stop.")]
Jobs = Annotated[int | None, _count("--jobs", "Trainings at a time; by default one a core, on a GPU one.")]
Only = Annotated[str, typer.Option("--only", metavar='"A; B"', help="Only those of these names.")]
Repeats = Annotated[int, _count("--repeats", "How often each is measured.")]
BenchOutput = Annotated[Path, _place("--output", "FOLDER", "Where the page and its figures go.", usual="bench")]
Images = Annotated[Path | None, _path("--images", "FOLDER", "Class folders of JPEG files; by default a sample's.")]
Samples = Annotated[int, _count("--samples", "Photographs: the files, over and over.")]
Workers = Annotated[int | None, _count("--workers", "Threads or worker processes; by default one a core.")]


def _recipe(settings: list[str], only_print: bool) -> Any:
    """The recipe that the settings say. only_print: print it, and end the command."""
    from fastgen.recipe.load import parse

    recipe = parse(settings)
    if only_print:
        print(recipe.to_yaml(), end="")
        raise typer.Exit
    return recipe


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator)] if text else []


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in _parts(text, ",")]
    except ValueError:
        raise UserError(f"{option}={text} must be numbers, such as 0.1,0.3,0.5") from None


app = typer.Typer(
    help='The randomization test of "Understanding deep learning requires rethinking generalization".',
    rich_markup_mode=None,  # rich text takes longer to import
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipelines.provenance import in_words

        print(in_words())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    pass


bench = typer.Typer(help="Measure loaders, bakes and trainings beside others.")
app.add_typer(bench, name="bench")


@app.command(cls=_WithKeys)
def train(settings: Settings, only_print: Print = False) -> None:
    """Train a recipe, with some keys set to other values.

    On several devices: accelerate launch -m fastgen.train recipe=NAME key=value ...
    """
    recipe = _recipe(settings, only_print)  # before PyTorch is imported, so that mistakes end at once
    from fastgen.training.loop import train

    train(recipe)


@app.command()
def resume(named: Annotated[list[str], _settings("RUN_DIR key=value")]) -> None:
    """Go on with a run from its last checkpoint.

    With the recipe that lies in it, and keys that are given. By default the newest run that has not finished. On
    several devices: accelerate's command of before, with run.resume and run.dir.
    """
    from fastgen.runs.folder import recipe_to_resume

    recipe = recipe_to_resume(named)
    from fastgen.training.loop import train

    train(recipe)


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from fastgen.recipe.load import described_recipes

    for name, sentence in described_recipes():
        print(f"{name:<40} {sentence}")


@app.command()
def keys(
    pattern: Annotated[str | None, typer.Argument(metavar="PATTERN", hidden=True)] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the table of docs/keys.md.")] = False,
) -> None:
    """Tell what each key of a recipe means.

    PATTERN: a part of their names (batch), a shell's pattern (data.*), or a word of what they mean.
    """
    from fastgen.recipe.keys import find, told

    print(told(find(pattern), markdown))


@app.command()
def bake(settings: Settings, only_print: Print = False) -> None:
    """Make the recipe's baked set, or find it.

    `fastgen train --help` lists recipes and keys.
    """
    recipe = _recipe(settings, only_print)
    from fastgen.sets import bake_recipe, show_summary

    show_summary(bake_recipe(recipe))


@app.command()
def verify(named: PathOrSettings, only_print: Print = False) -> None:
    """Hash every byte of a set, and compute its labels again.

    And some images, where its source is found. PATH: a baked set, or an export of one. Nothing is baked for it.
    """
    if only_print:
        _recipe(named, only_print)
    from fastgen.sets import verify

    verify(named)


@app.command()
def inspect(
    named: PathOrSettings,
    images: Annotated[Path | None, _place("--images", "OUT.png", "Draw a sheet of samples there.")] = None,
    only_print: Print = False,
) -> None:
    """Show what is in a baked set.

    PATH: a baked set, or an export of one. Nothing is baked for it.
    """
    if only_print:
        _recipe(named, only_print)
    from fastgen.sets import inspect

    inspect(named, images)


@app.command()
def export(
    named: PathOrSettings,
    to: Annotated[str, typer.Option("--to", metavar="webdataset", help="Format.", autocompletion=_complete_export)],
    output: Annotated[Path | None, _place("--output", "FOLDER", "By default named after the set.")] = None,
    shard_mb: Annotated[int, _count("--shard-mb", "Size of a shard in MB.")] = 512,
    labels: Annotated[
        str | None, typer.Option("--labels", metavar="COLUMN", help="Of .cls; else the recipe's, or a PATH's first.")
    ] = None,
    only_print: Print = False,
) -> None:
    """Write a baked set as shards.

    A recipe's is baked now if it is not there.
    """
    if only_print:
        _recipe(named, only_print)
    from fastgen.sets import export_set

    export_set(named, to, output, shard_mb, labels)


@app.command()
def clean(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", hidden=True, exists=True, file_okay=False)] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, metavar="DAYS", help="Remove sets not used for so long.")
    ] = None,
    keep_gb: Annotated[
        float | None, typer.Option("--keep-gb", min=0, metavar="GB", help="Remove the least recently used beyond it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are only shown.")] = False,
) -> None:
    """Show the cache of baked sets, and free it.

    What processes that died left behind goes in any case; what is in use stays. FOLDER: in place of the cache one of
    exports or of staged copies.
    """
    from fastgen.sets import clean

    clean(folder, older_than, keep_gb, yes)


@app.command()
def sweep(
    settings: Annotated[list[str], _settings("recipe=NAME key=a,b,c")],
    jobs: Jobs = None,
    output: Annotated[Path | None, _place("--output", "FOLDER", "By default named after the points.")] = None,
    wandb_file: Annotated[
        Path | None, _place("--wandb-file", "FILE.yaml", "Train nothing: write the sweep for W&B's agents.")
    ] = None,
    on: Annotated[
        Literal["local", "slurm", "submitit"],
        typer.Option("--on", help="This machine, SLURM's jobs, or submitit's processes here, to try the like of jobs."),
    ] = "local",
    slurm: Annotated[
        list[str] | None, typer.Option("--slurm", metavar="KEY=VALUE", help="An option of sbatch; time in minutes.")
    ] = None,
) -> None:
    """Train all combinations of some keys' values.

    Finished ones are not repeated. `fastgen train --help` lists recipes and keys. With --on slurm each is a job of an
    array, --slurm partition=gpu --slurm gpus-per-node=1 are its options, and --jobs says how many run at a time. One
    whose time is over leaves a checkpoint, is queued again and goes on.
    """
    if on == "local" and slurm:
        raise UserError("--slurm is for --on slurm")
    from fastgen.sweeps.cluster import Cluster
    from fastgen.sweeps.sweep import sweep

    sweep(settings, jobs, output, wandb_file, None if on == "local" else Cluster.parse(on, slurm or []))


@app.command()
def memorization(
    context: typer.Context,
    settings: Settings,
    networks: Annotated[int, _count("--networks", "Networks for each fraction.")] = 200,
    fraction: Annotated[float, typer.Option("--fraction", help="Of the samples, which a network is trained on.")] = 0.7,
    fractions: Annotated[str, typer.Option("--fractions", metavar="A,B", help="Several, for the C-score.")] = "",
    removal: Annotated[
        str, typer.Option("--removal", metavar="A,B", help="Then train without samples that are memorised so much.")
    ] = "",
    seeds: Annotated[int, _count("--seeds", "Trainings of each removal.")] = 3,
    jobs: Jobs = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="Write all influences, float16, as influence.npy.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log the estimates to W&B, too.")] = False,
    output: Annotated[Path | None, _path("--output", "FOLDER", "By default below fastgen_out/memorization.")] = None,
) -> None:
    """Tell which samples are memorised, and whom they help.

    By many networks on random subsets: memorization, influence and consistency of every sample, as tables and a page.
    Finished networks are not repeated. `fastgen train --help` lists recipes and keys.
    """
    from fastgen.memorization.command import run

    run(
        settings,
        count=networks,
        fraction=fraction,
        fractions=_numbers("--fractions", fractions),
        removal=_numbers("--removal", removal),
        seeds=seeds,
        jobs=jobs,
        matrix=matrix,
        wandb=wandb,
        output=output,
        command=context.obj,
    )


@app.command()
def reproduce(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", hidden=True, autocompletion=_complete_experiment)],
    settings: Annotated[list[str], _settings("key=value")],
    output: Annotated[Path, _place("--output", "FOLDER", "Finished runs there are not repeated.", usual="reproduce")],
    models: Annotated[str, typer.Option("--models", metavar="A,B", help="Only these networks or cases.")] = "",
    seeds: Annotated[str, typer.Option("--seeds", metavar="0,1,2", help="A run of each row for each.")] = "",
    scale: Annotated[Literal["full", "smoke"], typer.Option("--scale", help="smoke: a subset, in minutes.")] = "full",
    jobs: Jobs = None,
    only_show: Annotated[bool, typer.Option("--show", help="Run nothing: show what is there.")] = False,
) -> None:
    """Show the paper's experiments, and run what is missing.

    NAME: table1, table2, table4, fig1a, fig1b, fig1c, fig2a, fig2b, rademacher, or all, and past the paper
    regularisers (table 4 with today's), which are trainings, with key=value for each; table3, table3_bandwidth,
    theorem1, minnorm, which are computed, with the keys seed, data.limit, data.limit_test, data.root, kernel.* (table3,
    table3_bandwidth), sgd.epochs (minnorm).
    """
    chosen = _parts(seeds, ",")
    if not all(seed.isdecimal() for seed in chosen) or len(set(chosen)) < len(chosen):
        raise UserError(f"--seeds={seeds} must be different whole numbers, such as 0,1,2")
    from fastgen.paper.reproduce import reproduce

    reproduce(
        name,
        settings,
        models=_parts(models, ",") or None,
        seeds=tuple(map(int, chosen)) or None,
        smoke=scale == "smoke",
        jobs=jobs,
        root=output,
        only_show=only_show,
        command=context.obj,
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", hidden=True)],
    output: Annotated[Path | None, _place("--output", "FILE.html", "By default reports/report.html.")] = None,
    wandb: Annotated[bool, typer.Option("--wandb", help="Make a W&B report instead; prints its link.")] = False,
) -> None:
    """Show what runs did: tables, curves, sample images.

    RUN: a run's directory, or a folder of them, however deep; several folders make an index with a page for each. The
    files need no network.
    """
    from fastgen.report.report import report

    report(runs, output, wandb)


@app.command()
def dynamics(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", hidden=True, exists=True, file_okay=False)],
) -> None:
    """Show how clean and corrupted samples were learned.

    RUN_DIR: of a run with train.dynamics=true.
    """
    from fastgen.runs.dynamics import show

    show(run_dir)


@app.command()
def init(
    data: Annotated[Path, typer.Argument(metavar="FOLDER_OR_PARQUET", hidden=True)],
    output: Annotated[Path, _path("--output", "RECIPE.yaml", "Where the recipe goes; nothing is overwritten.")] = Path(
        "recipe.yaml"
    ),
) -> None:
    """Look at images of your own, and write a recipe for them.

    FOLDER_OR_PARQUET: a folder of class folders, or of train/ and test/, or Parquet files as on the Hub. Tells what is
    there: splits, classes, sizes, broken images, exact copies. The recipe fits them and this machine.
    """
    from fastgen.owndata.init import init

    init(data, output)


@app.command()
def suspects(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", hidden=True, exists=True, file_okay=False)],
    output: Annotated[Path | None, _path("--output", "FOLDER", "By default RUN_DIR/suspects.")] = None,
    top: Annotated[int, _count("--top", "Images on the sheet.")] = 64,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, metavar="K", help="Train K networks, each of which leaves out a part."),
    ] = None,
    jobs: Jobs = None,
) -> None:
    """Which labels look wrong?

    RUN_DIR: of a run with train.dynamics=true. Ranks the training samples by how they were learned, and with --folds by
    what networks say that never saw them.
    """
    from fastgen.owndata.suspects import suspects

    suspects(run_dir, output, top, folds, jobs)


@app.command()
def doctor() -> None:
    """Show what is installed, and which data sets are found."""
    from fastgen.doctor import doctor

    doctor()


@bench.command()
def loaders(
    context: typer.Context,
    output: BenchOutput,
    images: Images = None,
    size: Annotated[int, _count("--size", "Side of the network's input in pixels.")] = 224,
    batch: Annotated[int, _count("--batch", "Images in a batch.")] = 64,
    samples: Samples = 2000,
    workers: Workers = None,
    only: Only = "",
    repeats: Repeats = 3,
) -> None:
    """Which loader feeds this machine's device?"""
    from fastgen.bench.loaders import loaders

    loaders(_parts(only, ";"), repeats, output, context.obj, images, samples, workers, size, batch)


@bench.command(name="bake")
def bench_bake(
    context: typer.Context,
    output: BenchOutput,
    images: Images = None,
    samples: Samples = 1000,
    workers: Workers = None,
    only: Only = "",
    repeats: Repeats = 3,
) -> None:
    """How fast are photographs baked, and streamed then?"""
    from fastgen.bench.bake import bakes

    bakes(_parts(only, ";"), repeats, output, context.obj, images, samples, workers)


@bench.command()
def peers(
    context: typer.Context,
    output: BenchOutput,
    steps: Annotated[int, _count("--steps", "Optimizer steps that are timed.")] = 800,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option("--precision")] = "fp32",
    only: Only = "",
    repeats: Repeats = 3,
) -> None:
    """Train the MLP 1x512 beside what one would write instead."""
    from fastgen.bench.peers import peers

    peers(_parts(only, ";"), repeats, output, context.obj, steps, precision)


@bench.command(name="train")
def bench_train(
    context: typer.Context,
    output: BenchOutput,
    settings: Settings,
    steps: Annotated[int, _count("--steps", "Optimizer steps that are timed.")] = 20,
    images: Images = None,
    samples: Samples = 1024,
    only: Only = "",
    repeats: Repeats = 2,
) -> None:
    """Does the data keep up with the network?

    With recipe=NAME, this one in place of the built-in trainings. key=value is for all.
    """
    from fastgen.bench.train import train

    train(_parts(only, ";"), repeats, output, context.obj, images, samples, steps, settings)


if __name__ == "__main__":
    sys.exit(main())
