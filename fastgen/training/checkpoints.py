"""Checkpoints: the whole state of a run in a folder that is there or is not.

checkpoints/step_00001234/ holds
    model.safetensors           weights and buffers
    NAME.safetensors            the other states: optimizer, average, dynamics, scaler (`fastgen.training.states`)
    generators_RANK.safetensors random numbers of each process
    position.json               written last: where the run stood, with size and SHA-256 of each of these files

Nothing in them is executed when they are read.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fastgen.training.generators import generator_states, set_generator_states
from fastgen.training.position import Position
from fastgen.training.states import on_the_host, read_state, tensor_bytes, write_state
from pipelines.baked.notes import Count, Sha256, parsed
from pipelines.durable import check_room, read_regular, share, sync_folder, write_durably
from pipelines.errors import UserError

POSITION = "position.json"
MODEL = "model.safetensors"
_FILES, _DIGEST = "files", "sha256"  # keys of position.json: the other files, and the digest of all that it says itself
# What reading a file raises that is whole and of another model.
_OTHER = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class _File:
    bytes: Count
    sha256: Sha256


class Stateful(Protocol):
    """What has a state beside the network's weights."""

    def state_dict(self) -> Any:
        """Nested dicts, lists and tuples of tensors and of what JSON has. Called by all processes."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go on from it."""


def save(
    accelerator: Accelerator,
    folder: Path,
    position: Position,
    keep: int,
    network: torch.nn.Module,
    states: Mapping[str, Stateful],
) -> None:
    """Write a checkpoint aside, rename it, and delete all but the latest `keep`. Called by all processes.

    Raises Unwritable, in all of them, when one of them cannot write; what was there before stays.
    """
    final = folder / f"step_{position.step:08d}"
    temporary = folder / f".{final.name}.tmp"
    try:
        with _together(accelerator, folder):
            if accelerator.is_main_process:
                for left in folder.glob(".step_*.tmp"):  # of a process that was killed
                    shutil.rmtree(left)
        if final.exists():  # it holds these weights already; the position may know more about them by now
            with _together(accelerator, folder):
                if accelerator.is_main_process:
                    _write_position(final, position, _read_position(final)[1])
        else:
            _write(accelerator, temporary, position, network, states)
            with _together(accelerator, folder):
                if accelerator.is_main_process:
                    temporary.rename(final)
                    sync_folder(folder)
        with _together(accelerator, folder):
            if accelerator.is_main_process:
                for old in _all(folder)[:-keep]:
                    unfinished = old.rename(folder / f".{old.name}.tmp")  # half a checkpoint would pass for one
                    shutil.rmtree(unfinished)
    except Unwritable:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(
    accelerator: Accelerator, to: Path, position: Position, network: torch.nn.Module, states: Mapping[str, Stateful]
) -> None:
    main, folder = accelerator.is_main_process, to.parent
    collected = {name: holder.state_dict() for name, holder in states.items()}  # all processes take part in each
    with _together(accelerator, folder):
        if main:
            to.mkdir(parents=True)
            need = sum(map(tensor_bytes, (network.state_dict(), *collected.values())))
            check_room(folder, need, "a checkpoint", "free some")
    with _together(accelerator, folder):
        write_state(to / _generators(accelerator.process_index), generator_states())
        if main:
            for name, state in collected.items():
                write_state(to / f"{name}.safetensors", state)
            save_file(on_the_host(network.state_dict()), to / MODEL)
    with _together(accelerator, folder):
        if main:
            for path in to.iterdir():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                share(path, folder)  # safetensors makes files that nobody else can read
            _write_position(to, position, {path.name: _described(path) for path in sorted(to.iterdir())})
            sync_folder(to)


class Unwritable(UserError):
    """A checkpoint could not be written."""


@contextmanager
def _together(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """A step of writing, which has failed in all processes where it fails in one. None goes on before all have come."""
    failure = None
    try:
        yield
    except (OSError, SafetensorError, UserError) as error:
        failure = str(error)
    failures = gather_object([failure]) if accelerator.num_processes > 1 else [failure]
    if reason := next(filter(None, failures), None):
        before = _all(folder)
        kept = f"{before[-1].name} is kept, and run.resume=true goes on from it" if before else "there is none before"
        raise Unwritable(f"no checkpoint can be written to {folder}: {reason}; {kept}")


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    found = _all(folder)
    return found[-1] if found else None


def restore(
    accelerator: Accelerator, checkpoint: Path, network: torch.nn.Module, states: Mapping[str, Stateful]
) -> Position:
    """Load weights, states and random numbers, and return the position.

    Raises UserError when a file is missing or damaged, or does not fit the recipe's network.
    """
    position = _whole(checkpoint)
    same_processes = position.world_size == accelerator.num_processes
    name = MODEL
    try:
        network.load_state_dict(load_file(checkpoint / name))
        for state, holder in states.items():
            name = f"{state}.safetensors"
            holder.load_state_dict(read_state(checkpoint / name))
        if same_processes:
            name = _generators(accelerator.process_index)
            set_generator_states(read_state(checkpoint / name))
    except _OTHER as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{checkpoint / name} does not fit this run: {reason}") from error
    if not same_processes:
        # There are no random numbers for processes that did not exist: each process begins fresh ones.
        torch.manual_seed(position.step * 65537 + accelerator.process_index)
    return position


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights and buffers, on the host, as the run's evaluations use them: where it averages them (train.ema), those.

    Raises UserError when a file is missing or damaged.
    """
    _whole(checkpoint)
    average = checkpoint / "average.safetensors"
    return read_state(average)["network"] if average.is_file() else load_file(checkpoint / MODEL)


def _whole(checkpoint: Path) -> Position:
    """Where it stood, once each of its files was found as it was written."""
    position, files = _read_position(checkpoint)
    for name, described in files.items():
        path = checkpoint / name
        if not path.is_file() or _described(path) != described:
            raise _damaged(checkpoint, f"{path} is {'damaged' if path.exists() else 'missing'}")
    return position


def _generators(rank: int) -> str:
    return f"generators_{rank}.safetensors"


def _described(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _write_position(checkpoint: Path, position: Position, files: dict[str, Any]) -> None:
    values = json.loads(json.dumps({**asdict(position), _FILES: files}))
    write_durably(checkpoint / POSITION, json.dumps({**values, _DIGEST: _digest(values)}, indent=1) + "\n")


def _read_position(checkpoint: Path) -> tuple[Position, dict[str, Any]]:
    path = checkpoint / POSITION
    try:
        values = json.loads(read_regular(path))
        written = isinstance(values, dict) and values.pop(_DIGEST, None)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(checkpoint, f"{path} is damaged ({error})") from None
    if not written:
        raise UserError(f"{path} is damaged or of an earlier version of fastgen, which alone goes on with it")
    if written != _digest(values):
        raise _damaged(checkpoint, f"{path} is damaged")
    try:
        files = parsed(dict[str, _File], values.pop(_FILES))
        position = parsed(Position, values)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is of another version of fastgen ({error}), which alone goes on with it") from None
    if position.step != _step(checkpoint):
        raise _damaged(checkpoint, f"{checkpoint} holds step {position.step}: it was renamed or replaced")
    return position, {name: asdict(file) for name, file in files.items()}


def _damaged(checkpoint: Path, what: str) -> UserError:
    before = [other for other in _all(checkpoint.parent) if _step(other) < _step(checkpoint)]
    remedy = f"to go on from {before[-1].name}, the one before" if before else "to begin anew: there is none before it"
    return UserError(f"{what}; delete {checkpoint} {remedy}")


def _all(folder: Path) -> list[Path]:
    """The oldest first. One without its position is damaged: it gets its name when it is whole."""
    found = (path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name))
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))
