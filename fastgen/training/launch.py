"""Processes: the Accelerator, the traps of launching, threads, and what all processes decide and do together."""

import ctypes
import hashlib
import os
import platform
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import timedelta
from fractions import Fraction
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    set_seed,
)
from torch.distributed import distributed_c10d

from fastgen.errors import LostProcess
from fastgen.recipe.schema import Recipe
from pipelines.errors import UserError

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1  # prctl's option: the signal that this process gets when its parent ends (linux/prctl.h)
# Parts of the messages of gloo and NCCL when a process is lost: PyTorch has no one class for these errors.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "imed out", "NCCL")
CONTINUE, CHECKPOINT, STOP = 0, 1, 2  # what the processes agree to do next, the most urgent last


def _refuse_lone_process() -> None:
    """Raises UserError for a launch that asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` exports MASTER_ADDR for two processes and then starts one, without
    WORLD_SIZE (accelerate.utils.launch.prepare_simple_launcher_cmd_env).
    """
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UserError(
            "accelerate was asked for several processes and started one (it does so with --cpu --num_processes N); "
            "use a shipped configuration: accelerate launch --config_file recipes/accelerate/cpu_2.yaml ..., "
            "or unset MASTER_ADDR"
        )


def _end_with_launcher() -> None:
    """Let the kernel send SIGTERM when accelerate's launcher for one process ends: it passes no signal on itself."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def share_of_cores(accelerator: Accelerator) -> int:
    """How many cores this process has, beside the run's others on its machine; every process must ask.

    They may run on the same cores, or each be bound to some of its own (numactl, accelerate's --enable_cpu_affinity).
    """
    mine, machine = os.sched_getaffinity(0), platform.node()
    everyone = gather_object([(machine, mine)]) if accelerator.num_processes > 1 else [(machine, mine)]
    here = [cores for where, cores in everyone if where == machine]
    users = Counter(core for cores in here for core in cores)
    share = int(sum(Fraction(1, users[core]) for core in mine))
    given = os.environ.get("SLURM_CPUS_PER_TASK")  # not every SLURM keeps a job to those that it was given
    return max(1, share if given is None else min(share, int(given) // len(here)))


def compute_threads(wanted: int | None, share: int, gpu: bool) -> int | None:
    """How many threads PyTorch computes with, None: as many as it has chosen.

    wanted: train.threads. Where that is not set, OMP_NUM_THREADS is respected; but a 1 may be accelerate's own, whose
    launcher sets it where there is none: it would leave all cores but one idle. share: of the cores.
    """
    given = os.environ.get("OMP_NUM_THREADS")
    is_set = given is not None and not (given == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ)
    return wanted or (None if gpu or is_set else share)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """The Accelerator of a recipe: its device, precision, accumulation and tracker.

    Raises UserError for a launch that started other processes than it was asked for, LostProcess when the others do not
    come within train.startup_minutes.
    """
    _refuse_lone_process()
    _end_with_launcher()
    gpu = torch.cuda.is_available()
    precision = recipe.train.precision
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if precision == "fp16" and not gpu:
        raise UserError("train.precision=fp16 needs a GPU; use fp32 or bf16")
    # PyTorch 2.15's new name of that setting of DDP does less, and is not accelerate's yet.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    with _gathering(recipe.train.startup_minutes):
        accelerator = Accelerator(
            cpu=not gpu,
            mixed_precision="no" if precision == "fp32" else precision,
            log_with="wandb" if recipe.track.wandb != "off" else None,
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(minutes=recipe.train.startup_minutes)),
                # Each process's batch norm keeps statistics of its own, and evaluations and checkpoints are of the
                # first one's: it would only overwrite those of the others, with a message in each step.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()  # who is lost by now is not waited for any longer than that
        # PyTorch's public function is newer than the oldest version that fastgen runs with.
        set_timeout = getattr(torch.distributed, "set_timeout", None) or distributed_c10d._set_pg_timeout
        set_timeout(timedelta(minutes=recipe.train.timeout_minutes))
    # `backward` divides by it. Passed as an argument, an environment variable of accelerate would override it.
    accelerator.gradient_accumulation_steps = recipe.train.accumulate
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != expected:
        raise UserError(
            f"WORLD_SIZE={expected} processes were started, but {accelerator.num_processes} joined the run; "
            "launch with one of recipes/accelerate/*.yaml"
        )
    if threads := compute_threads(recipe.train.threads, share_of_cores(accelerator), gpu):
        torch.set_num_threads(threads)
    if gpu:
        torch.backends.cudnn.benchmark = True  # inputs have few different shapes: try its algorithms once for each
    set_seed(recipe.seed)  # the same in all processes, as their initial weights must agree
    return accelerator


def draw_apart(accelerator: Accelerator, seed: int) -> None:
    """From now on each process draws its own random numbers, so its own dropout masks; the first one's stay."""
    if rank := accelerator.process_index:
        digest = hashlib.sha256(f"dropout {seed} {rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8]) >> 1)


@contextmanager
def alone() -> Iterator[None]:
    """Within it, a training of one process begins as in a process of its own: accelerate keeps what the first one in a
    process chose, and refuses another precision. Of several processes, accelerate's launcher began them."""
    try:
        if "WORLD_SIZE" not in os.environ:
            AcceleratorState._reset_state(True)
        yield
    finally:
        if "WORLD_SIZE" not in os.environ:
            AcceleratorState._reset_state(True)


@contextmanager
def _gathering(minutes: float) -> Iterator[None]:
    """While the processes find each other: says who waited for whom, and for how long."""
    try:
        yield
    except torch.distributed.DistError as error:
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"another program listens on {address}, where the processes of this run were to meet: give another "
                "port, accelerate launch --main_process_port N"
            ) from None
        raise LostProcess(
            f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} met not all others at {address} "
            f"within train.startup_minutes={minutes:g} ({_first_line(error)}): one did not start, or ended"
        ) from error


@contextmanager
def noticing_lost_processes(how_to_go_on: str) -> Iterator[None]:
    """A context that turns the communication library's error for a lost process into LostProcess with the remedy."""
    try:
        yield
    except RuntimeError as error:
        rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        lost = isinstance(error, torch.distributed.DistError) or any(sign in str(error) for sign in _LOST)
        if world == "1" or not lost:
            raise
        raise LostProcess(
            f"process {rank} of {world} lost another one ({_first_line(error)}): it or its machine ended, or did not "
            f"answer for train.timeout_minutes. {how_to_go_on}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class Agreement:
    """Lets all processes take the same decision at the same step: the most urgent wish of any process wins.

    A signal may reach one process only, and clocks differ, but a checkpoint or an end needs all processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        # Steps. On a GPU agreeing makes the loop wait for the device, so the processes agree seldom.
        self._interval = 20 if accelerator.num_processes > 1 and accelerator.device.type == "cuda" else 1

    def reach(self, wish: int, step: int) -> int:
        """The common decision after optimizer step `step`: CONTINUE, CHECKPOINT or STOP."""
        if self._accelerator.num_processes == 1:
            return wish
        if step % self._interval:
            return CONTINUE
        mine = torch.tensor([wish == CHECKPOINT, wish == STOP], dtype=torch.int32, device=self._accelerator.device)
        checkpoint, stop = self._accelerator.reduce(mine, "sum").tolist()
        return STOP if stop else CHECKPOINT if checkpoint else CONTINUE


def _beside(work: Callable[[], T]) -> "Future[T]":
    """Begin `work` in a thread. A signal may end the process meanwhile, which an executor's threads would hold up."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def everywhere(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work`, which may take long, in every process, and return when all are done.

    The processes tell each other every few seconds that they live. A UserError of one is raised in all.
    """
    if accelerator.num_processes == 1:
        return work()
    future = _beside(work)
    while True:
        wait([future], timeout=5)
        failure = str(future.exception()) if future.done() and future.exception() else None
        reports = gather_object([(future.done(), failure)])
        failures = [text for _, text in reports if text is not None]
        if failures:
            error = future.exception() if future.done() else None
            raise error if error and not isinstance(error, UserError) else UserError(failures[0])
        if all(done for done, _ in reports):
            return future.result()


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` in the main process and return its result in all. Its error ends all, the others with a UserError.

    The main process sends a message every 20 seconds meanwhile: the communication time-out would else take hours of
    baking for a lost process.
    """
    if accelerator.num_processes == 1:
        return work()
    if not accelerator.is_main_process:
        while True:
            state, value = broadcast_object_list([None])[0]
            if state == "error":
                raise UserError(value)
            if state == "done":
                return value
    future = _beside(work)
    while not wait([future], timeout=20).done:
        broadcast_object_list([("waiting", None)])
    error = future.exception()
    if error is not None:
        broadcast_object_list([("error", str(error))])
        raise error
    broadcast_object_list([("done", future.result())])
    return future.result()
