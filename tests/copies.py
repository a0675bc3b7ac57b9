"""Programs that start as copies of a process which has imported PyTorch, as those of a sweep do.

To import it anew takes longer than most of what a test lets a program do. What is about the start itself, a launcher,
signals or the memory of a process starts anew all the same.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from whole_runs import ROOT

_COPIED = multiprocessing.get_context("forkserver")
_COPIED.set_forkserver_preload(["fastgen.cli", "fastgen.training.loop", "torch._dynamo"])


def run(
    *command: str | Path, processes: int = 1, cwd: Path | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """As `python SCRIPT ...`, with this process's environment, and with one thread. Several
    processes are told of each other as a launcher would; where one fails, the others are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = []
        for rank in range(processes):
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            more = {name: str(value) for name, value in told.items()} if processes > 1 else {}
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
            started.append(_start([str(word) for word in command], environment, cwd or Path.cwd(), out, err))
        until = time.monotonic() + timeout
        codes = [None] * processes
        try:
            while None in codes and not any(codes) and time.monotonic() < until:
                codes = [process.exitcode for process in started]
                time.sleep(0.02)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.join(30)
                process.kill()
                process.join()
        if None in codes and not any(codes):
            raise subprocess.TimeoutExpired(list(command), timeout)
        texts = [file.seek(0) or file.read().decode() for file in (out, err)]
        return subprocess.CompletedProcess(list(command), next(filter(None, codes), 0), *texts)


def train(*settings: str, processes: int) -> None:
    """fastgen/train.py recipe=quickstart SETTINGS, which succeeds."""
    done = run(ROOT / "fastgen" / "train.py", "recipe=quickstart", *settings, processes=processes)
    assert done.returncode == 0, done.stderr


def _start(
    command: list[str], environment: dict[str, str], cwd: Path, out: IO[bytes], err: IO[bytes]
) -> multiprocessing.context.ForkServerProcess:
    paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
    process = _COPIED.Process(target=_program, args=(command, environment, cwd, paths))
    process.start()
    return process


def _program(command: list[str], environment: dict[str, str], cwd: Path, outputs: list[str]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # where a sweep has started what is copied, it blocks some
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    import numpy as np
    import torch

    # Else processes that draw from it would agree, as copies of one.
    np.random.seed()  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
