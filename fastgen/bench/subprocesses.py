"""Repetitions in turn, each in a process of its own, so that noise of the machine meets all alike."""

import contextlib
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

Measurement = dict[str, Any]  # one process's figures, by names that end in their units


def measure(module: str, name: str, work: dict[str, Any], limit_s: float | None = None) -> Measurement:
    """Run `python -m module NAME STARTED`, which calls `answer`, with `work` as JSON on its input.

    STARTED: time.time(), just before. Raises RuntimeError with the process's last line of errors where it failed, or
    where it takes longer than `limit_s`.
    """
    command = [sys.executable, "-m", module, name, repr(time.time())]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            output, errors = process.communicate(json.dumps(work), timeout=limit_s)
        except BaseException as error:  # Ctrl-C too: what it started would disturb what is measured next
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"no end after {limit_s:.0f} s") from None
            raise
    lines = (errors if process.returncode else output).strip().splitlines()
    if process.returncode or not lines:
        raise RuntimeError(lines[-1] if lines else f"exit code {process.returncode}")
    found: Measurement = json.loads(lines[-1])
    return found


def answer(measured: Callable[[str, dict[str, Any]], Measurement]) -> None:
    """The other end of `measure`: print what `measured` finds for NAME and the work, as one line of JSON."""
    with contextlib.redirect_stdout(sys.stderr):  # what is printed on the way is not the result
        found = measured(sys.argv[1], json.load(sys.stdin))
    print(json.dumps(found), flush=True)


def chosen(only: list[str], known: Iterable[str]) -> list[str]:
    """`only`, or all known names where it is empty. Raises UserError for an unknown name."""
    known = list(known)
    for name in only:
        if name not in known:
            raise UserError(f"--only has '{name}': {did_you_mean(name, known)}")
    return only or known


def in_turn(
    names: Iterable[str], repeats: int, run: Callable[[str], Measurement]
) -> tuple[dict[str, list[Measurement]], dict[str, str]]:
    """The measurements of each name, `repeats` of them, and the reasons of those that failed, which run no more."""
    found: dict[str, list[Measurement]] = {name: [] for name in names}
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


def values(measured: list[Measurement], key: str) -> list[float]:
    return [one[key] for one in measured]


def ratios(mine: list[Measurement], other: list[Measurement], key: str) -> list[float]:
    """mine over other's in each repetition, where they are neighbours in time."""
    return [a / b for a, b in zip(values(mine, key), values(other, key), strict=True)]


def median_and_range(numbers: list[float], form: str = ",.0f") -> str:
    """In words, each number formatted as `form` says; "-" without numbers."""
    if not numbers:
        return "-"
    median = f"{statistics.median(numbers):{form}}"
    return median if len(numbers) == 1 else f"{median} ({min(numbers):{form}} to {max(numbers):{form}})"
