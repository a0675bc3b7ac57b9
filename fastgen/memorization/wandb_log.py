"""The estimates as a run of W&B: numbers, figures, sheets, and the tables as an artifact."""

import hashlib
import importlib.util
import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from PIL import Image

from fastgen.memorization import tables
from fastgen.memorization.page import Shown
from fastgen.recipe.schema import Recipe
from fastgen.runs.login import ask_wandb
from pipelines.errors import UserError

_LOGIN = "`wandb login`, or WANDB_MODE=offline"


def check_wandb(recipe: Recipe) -> None:
    """Whether `log` will be able to, before hundreds of trainings. Raises UserError where it will not."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError("--wandb needs wandb: pip install wandb")
    if _mode(recipe) == "online":
        ask_wandb(_LOGIN)


def log(recipe: Recipe, root: Path, found: Shown) -> None:
    """In the project of track.*; offline where WANDB_MODE or track.wandb says so. Raises UserError if W&B refuses."""
    import wandb

    track = recipe.track
    try:
        with wandb.init(
            project=track.project,
            entity=track.entity,
            group=track.group or recipe.recipe,
            job_type="memorization",
            name=f"{root.name}-memorization",
            id=hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8],
            resume="allow",
            dir=str(root),
            config=recipe.flat(),
            mode=_mode(recipe),
        ) as run:
            pictures = {name: (_drawn(figure), caption) for name, (figure, caption) in found.figures.items()}
            images = {
                name: wandb.Image(image, caption=text) for name, (image, text) in (pictures | found.sheets).items()
            }
            run.log({name: value for name, value in found.numbers.items() if value is not None} | images)
            for header, rows in found.tables:
                run.log({f"{header[0]}, table": wandb.Table(columns=[*header], data=rows)})
            artifact = wandb.Artifact(f"{root.name}-estimates", "memorization")
            for name in (tables.SAMPLES, tables.PAIRS):
                if (root / name).exists():
                    artifact.add_file(str(root / name))
            run.log_artifact(artifact)
    except wandb.Error as error:
        raise UserError(f"W&B did not take the estimates ({error}); {_LOGIN}") from error


def _mode(recipe: Recipe) -> Literal["online", "offline", "disabled"]:
    """W&B's: --wandb asks for W&B also where track.wandb=off; its own variables can still say no."""
    wished = "offline" if recipe.track.wandb == "offline" else "online"
    modes: dict[str, Literal["online", "offline", "disabled"]]
    modes = {"online": "online", "offline": "offline", "off": "disabled"}
    return modes[replace(recipe.track, wandb=wished).resolved().wandb]


def _drawn(figure: Figure) -> Image.Image:
    out = io.BytesIO()
    figure.savefig(out, dpi=150, format="png")
    return Image.open(out)
