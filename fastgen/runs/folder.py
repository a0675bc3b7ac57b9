"""The run directory: recipe.yaml, manifest.json, made_by.json, metrics.jsonl, summary.json, checkpoints/."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fastgen.recipe.load import FREE, load, run_name
from fastgen.recipe.schema import Recipe
from fastgen.runs.machine import machine
from fastgen.runs.summary import FINISHED, SUMMARY, Summary
from pipelines.backends import BACKENDS
from pipelines.baked.manifest import MANIFEST, Manifest
from pipelines.baked.notes import parsed
from pipelines.durable import aside, read_regular, write_durably
from pipelines.errors import UserError
from pipelines.locations import outputs_root
from pipelines.provenance import made_by

_LENGTHS = ("train.epochs", "train.max_steps")  # a continuation may change them; the result is another one then
RECIPE = "recipe.yaml"
MADE_BY = "made_by.json"
# The packages that a run's result depends on, by pip's names.
PACKAGES = ("torch", "timm", "accelerate", "numpy", *(b.distribution for b in BACKENDS.values() if b.distribution))
LOCK = ".lock"  # held by the process that trains in the folder
WANDB_ID = "wandb_id.txt"  # a file of the run directory: the run's id in W&B
SAMPLES = "samples"  # the key of the sample images in W&B


class RunLock:
    """Keeps other processes from training in a run directory, until its context ends or its process.

    The kernel frees it when the process has ended, however that ended, also on NFS. A run that ends before `keep` has
    failed to start: what was made for it goes with the context.
    """

    def __init__(self) -> None:
        self._lock: FileLock | None = None
        self._new: Path | None = None  # its content is of a start that may fail
        self._made: list[Path] = []  # the folders that this start has made, the innermost first

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        if self._new is not None:
            for path in self._new.iterdir():
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._lock:
            self._lock.release()
        for folder in self._made:
            with suppress(OSError):  # others have put something there
                folder.rmdir()

    def make(self, folder: Path, exist_ok: bool) -> None:
        """Make the folder of a new run, and take it. exist_ok: it may be there, empty.

        Raises FileExistsError, and UserError where another process has it.
        """
        self._made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=exist_ok)
        self.take(folder)
        self._new = folder

    def keep(self) -> None:
        """The run has started: from now on its directory stays."""
        self._new, self._made = None, []

    def take(self, folder: Path) -> None:
        """Raises UserError where another process has it."""
        # Not of one thread alone: with several processes, a thread chooses the folder. Some file systems know no locks.
        self._lock = FileLock(folder / LOCK, thread_local=False)
        try:
            with suppress(NotImplementedError):
                self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is training in {folder}; wait for it, or name another run.dir") from None


def recipe_to_resume(named: list[str]) -> Recipe:
    """The recipe of a run, which says that it goes on. named: its folder, else the newest below `runs_root` that has
    not finished is taken, and key=value.

    Raises UserError where there is none.
    """
    settings = [word for word in named if "=" in word]
    folders = [Path(word) for word in named if "=" not in word]
    if len(folders) > 1:
        raise UserError(f"{len(folders)} run directories given, and one is resumed at a time")
    if not folders:
        found = ((run, Summary.read(run)) for run in _latest())
        folders = [run for run, summary in found if summary is None or summary.status != FINISHED][:1]
        if not folders:
            raise UserError(f"no run below {runs_root()} is left to resume; name another one: fastgen resume RUN_DIR")
    (folder,) = folders
    if not (folder / RECIPE).is_file():
        raise UserError(f"there is no run to resume in {folder}")
    print(f"resuming {folder}", flush=True)
    return load(str(folder / RECIPE), [*settings, f"run.dir={folder}", "run.resume=true"])


def choose(recipe: Recipe, lock: RunLock) -> Path:
    """The folder of this run: a new empty one, or with run.resume the one to continue. For the main process alone.

    lock: is taken for it.

    Raises UserError when run.dir is in use, when there is nothing to resume, or the recipe differs from the run's.
    """
    if recipe.run.resume:
        folder = Path(recipe.run.dir) if recipe.run.dir else _numbered(_name(recipe), _last_number(_name(recipe)))
        if not (folder / RECIPE).is_file():
            what = f"in {folder}" if recipe.run.dir else f"named {_name(recipe)} in {runs_root()}"
            latest = ", ".join(map(str, _latest()[:3]))
            raise UserError(
                f"run.resume=true, but there is no run to resume {what}; "
                + (f"name one by run.dir, the latest are {latest}" if latest else "leave it out to start one")
            )
        lock.take(folder)
        _check_same(recipe, folder)
        return folder
    if recipe.run.dir is None:
        return _make_numbered(_name(recipe), lock)
    folder = Path(recipe.run.dir)
    if folder.exists() and {path.name for path in folder.iterdir()} - {LOCK, aside(folder / RECIPE).name}:
        raise UserError(f"run.dir={folder} is not empty; run.resume=true continues it, another run.dir starts anew")
    lock.make(folder, exist_ok=True)
    aside(folder / RECIPE).unlink(missing_ok=True)  # of a process that died in `begin`
    return folder


def begin(folder: Path, recipe: Recipe, data: Path, step: int) -> None:
    """Write what a run directory begins with, or what has changed when it goes on after `step`. data: the baked set's
    folder, or an export's.

    The recipe comes first: a folder that has it can be resumed, and one that has not is as good as empty.
    """
    write_durably(folder / RECIPE, recipe.to_yaml())
    write_durably(folder / MANIFEST, (data / MANIFEST).read_bytes())
    path = folder / MADE_BY
    try:
        before = parsed(list[dict[str, Any]], json.loads(read_regular(path))) if path.exists() else []
        entries = [*before, {"after_step": step, **made_by(*PACKAGES), "machine": machine()}]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it or delete it, then resume the run") from None
    write_durably(path, json.dumps(entries, indent=1) + "\n")
    (folder / SUMMARY).unlink(missing_ok=True)  # of what ended before: it is written again at the end


def decisive_settings(recipe: Recipe) -> dict[str, Any]:
    """What decides a run's result: all keys but where it lives, how it is observed and on which machine it runs."""
    return {key: value for key, value in recipe.flat().items() if is_decisive(key)}


def is_decisive(key: str) -> bool:
    """Whether a key has a part in what `decisive_settings` are."""
    return key in _LENGTHS or not key.startswith(FREE)


def runs_root() -> Path:
    """Where runs without run.dir lie."""
    return outputs_root() / "runs"


def _latest() -> list[Path]:
    """The runs in `runs_root`, the newest first."""
    runs = [path.parent for path in runs_root().glob(f"*/{RECIPE}")]
    return sorted(runs, key=lambda run: (run / RECIPE).stat().st_mtime, reverse=True)


def _name(recipe: Recipe) -> str:
    return recipe.run.name or run_name(recipe)  # of a recipe that was not loaded


def _numbered(name: str, number: int) -> Path:
    return runs_root() / f"{name}-{number:03d}"


def _last_number(name: str) -> int:
    """The number of the newest folder without run.dir; 0 where there is none."""
    matches = (re.fullmatch(re.escape(name) + r"-(\d{3,})", path.name) for path in runs_root().glob("*"))
    return max((int(match[1]) for match in matches if match), default=0)


def _make_numbered(name: str, lock: RunLock) -> Path:
    while True:
        folder = _numbered(name, _last_number(name) + 1)
        try:
            lock.make(folder, exist_ok=False)
            return folder
        except FileExistsError:
            continue  # another run took the number


def _check_same(recipe: Recipe, folder: Path) -> None:
    # Tracking is free to differ, and W&B may be missing on this machine.
    before = load(str(folder / RECIPE), ["track.wandb=off"]).flat()
    for key, value in recipe.flat().items():
        fixed = not key.startswith(FREE) or (recipe.schedule.of_length and key in _LENGTHS)
        if fixed and before.get(key) != value:
            why = f" (schedule.kind={recipe.schedule.kind} goes by the run's length)" if key in _LENGTHS else ""
            raise UserError(
                f"{folder} was made with {key}={before.get(key)}, and now it is {value}; "
                f"a resumed run must have the same recipe{why}: take the difference back, or start another run.dir"
            )


def manifest_of(folder: Path) -> Manifest:
    """Of the set that the run in `folder` was trained on. Raises UserError for a damaged copy."""
    remedy = f"restore it: {folder} is a run's folder, and nothing writes it again"
    if not (folder / MANIFEST).exists():
        raise UserError(f"{folder / MANIFEST} is missing; {remedy}")
    return Manifest.load(folder / MANIFEST, remedy)


def check_same_data(folder: Path, manifest: Manifest) -> None:
    """Raises UserError when the data under the same recipe are no longer those that the run was started with."""
    before = manifest_of(folder).specification
    if before != manifest.specification:
        differ = [key for key in manifest.specification if before.get(key) != manifest.specification[key]]
        raise UserError(
            f"{folder} was trained on other data (its manifest differs in {', '.join(differ)}); "
            "restore them, or start another run.dir"
        )
