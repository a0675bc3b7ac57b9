"""Kernels that a step launches, for the table in docs/gpu.md: python tests/nullcuda/kernels.py"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime import Run, Runtime, missing

from fastgen.recipe.load import load

MAIN = (
    "cifar10_inception_random",
    "cifar10_alexnet_random",
    "cifar10_mlp_1x512_random",
    "cifar10_mlp_3x512_random",
    "imagenet_inception_random",
    "imagenet_fast_resnet50_random",
)
HEAD = "| recipe | kernels | of these, matrix products and convolutions |"
STEP = "step 3"  # the first ones make memory and the optimizer's state


def small(name: str) -> list[str]:
    """Settings for a recipe with few and small images, from memory. How many there are changes no kernel."""
    recipe = load(name)
    large = recipe.data.source == "imagenet"
    settings = [f"recipe={name}", "data.backend=resident", "track.wandb=off"]
    if recipe.data.source != "digits":
        settings += ["data.source=synthetic", "data.synthetic.samples=16", "data.synthetic.test_samples=4"]
        settings += [f"data.synthetic.jpeg={large}", "data.synthetic.size=32"]
    if recipe.data.labels.kind == "table":  # published for a data set that is not here
        settings += ["data.labels.kind=random", "data.labels.name=null"]
    if large and recipe.model.options.get("aux_logits") is not True:  # the auxiliary head needs all of its 299 pixels
        settings += ["data.image_size=96", "data.progressive.start_size=null", "data.eval_size=null"]
    return [*settings, "data.batch_size=4", "data.limit=16", "data.limit_test=4"]


def first_steps(runtime: Runtime, names: Iterable[str], folder: Path) -> dict[str, Any]:
    """What `Runtime.train` finds of three steps of each recipe, uncompiled."""
    steps = ["train.compile=false", "train.max_steps=3"]  # too few for a CUDA graph
    runs = {name: Run([*small(name), *steps, f"run.dir={folder / name}"], large=True) for name in names}
    return dict(zip(runs, runtime.train(list(runs.values())), strict=True))


def kernels(run: dict[str, Any]) -> tuple[int, int]:
    """Of a step, launched one by one, without the loader's; and how many of them are products and convolutions."""
    step = run["phases"][STEP]
    products = sum(number for kernel, number in step["by_kernel"].items() if kernel.startswith(("cublas", "conv")))
    return step["kernels"], products


def table(found: dict[str, Any]) -> str:
    rows = [f"| `{name}` | {all_:,} | {products:,} |" for name in MAIN for all_, products in [kernels(found[name])]]
    return "\n".join([HEAD, "|---|---|---|", *rows])


def main() -> None:
    if reason := missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory() as folder:
        print(table(first_steps(Runtime.build(Path(folder)), MAIN, Path(folder))))


if __name__ == "__main__":
    main()
