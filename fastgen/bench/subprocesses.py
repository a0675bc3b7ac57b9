"""Repetitions in turn, each in a process of its own, so that noise of the machine meets all alike."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from fastgen.terminal import console
from pipelines.errors import UserError, did_you_mean

Measured = dict[str, Any]


def measure(module: str, arguments: list[str], given: str = "", limit_s: float | None = None) -> Measured:
    """Run `python -m module ARGUMENTS NOW` with `given` as its input; its last line, as JSON.

    Raises RuntimeError with the last thing that it said where it failed, and where it takes longer than `limit_s`.
    """
    command = [sys.executable, "-m", module, *arguments, repr(time.time())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            output, errors = process.communicate(given, timeout=limit_s)
        except BaseException as error:  # Ctrl-C too: what it started would disturb what is measured next
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"no end after {limit_s:.0f} s") from None
            raise
    lines = (errors if process.returncode else output).strip().splitlines()
    if process.returncode or not lines:
        raise RuntimeError(lines[-1] if lines else f"exit code {process.returncode}")
    found: Measured = json.loads(lines[-1])
    return found


def chosen(only: list[str], known: Iterable[str]) -> list[str]:
    """`only`, or all that are known where it is empty. Raises UserError for an unknown name."""
    known = list(known)
    for name in only:
        if name not in known:
            raise UserError(f"--only has '{name}': {did_you_mean(name, known)}")
    return only or known


def in_turn(
    names: Iterable[str], repeats: int, run: Callable[[str], Measured]
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """What was measured of each name, `repeats` times, and why the others failed, which are not tried again."""
    found: dict[str, list[Measured]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    screen = console()
    for repeat in range(repeats):
        for name in found:
            if name in failed:
                continue
            screen.print(f"{repeat + 1} of {repeats}: {name}")
            try:
                found[name].append(run(name))
            except RuntimeError as error:
                failed[name] = str(error)
                screen.print(f"  failed: {error}")
    return {name: measured for name, measured in found.items() if name not in failed}, failed


def values(measured: list[Measured], key: str) -> list[float]:
    return [one[key] for one in measured]


def ratios(mine: list[Measured], other: list[Measured], key: str) -> list[float]:
    """Of neighbours in time: mine over other's, for each repetition."""
    return [a / b for a, b in zip(values(mine, key), values(other, key), strict=True)]


def shown(numbers: list[float], form: str = ",.0f") -> str:
    """Median and range."""
    if not numbers:
        return "-"
    median = f"{statistics.median(numbers):{form}}"
    return median if len(numbers) == 1 else f"{median} ({min(numbers):{form}} to {max(numbers):{form}})"
