"""Measures one side of a training in a process of its own, as `fastgen.bench.subprocesses.measure` starts it.

training: the recipe as it is. compute: its step on one batch that is there already. loader: its batches, with nothing
done with them.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from fastgen.bench.subprocesses import Measurement, answer
from fastgen.recipe.load import load
from fastgen.recipe.schema import Recipe
from fastgen.training.capture import Captured, wants_capture
from fastgen.training.data import Data, open_data
from fastgen.training.launch import make_accelerator
from fastgen.training.loop import train
from fastgen.training.network import make_network, wants_compilation
from fastgen.training.optimization import Learner
from fastgen.training.position import Position
from fastgen.training.watching import Watcher
from pipelines.backends import Batch

_WARM_UP = 5  # steps, or batches, before the clock starts
_SECONDS_BETWEEN_READINGS = 0.2  # of the GPU's utilisation: its driver renews it 1 to 6 times a second
_PRODUCT_ROWS = {"cpu": 2048, "cuda": 8192}  # rows of the square matrices whose product measures the device's rate


class _StepTimes(Watcher):
    """When each step ended, by time.perf_counter."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def step(self, position: Position) -> None:
        self.ends.append(time.perf_counter())


def training(recipe: Recipe, steps: int) -> Measurement:
    times = _StepTimes()
    with utilisation() as used:
        summary = train(recipe, [times])
    return {
        "images_per_second": summary.images_per_second,
        "data_stall_fraction": summary.data_stall_fraction,
        "advice": summary.advice,
        "gpu_utilisation": used(times.ends[0], times.ends[-1]),
    }


def compute(recipe: Recipe, steps: int) -> Measurement:
    """The loop's step on a batch of noise, without clipping, average and metrics; its share of the device's rate."""
    accelerator = make_accelerator(recipe)
    data = open_data(accelerator, recipe)
    channels, size = data.baked.manifest.channels, data.image_size
    bare = make_network(recipe, data.classes, channels, size, accelerator.device)
    floating = count_flops(bare, torch.zeros(2, channels, size, size, device=accelerator.device)) / 2
    if wants_compilation(recipe, accelerator.device):
        bare.compile()
    capture = wants_capture(recipe, accelerator)
    learner = Learner(accelerator, bare, recipe.optim, recipe.train, capture)
    bare.train()
    count = recipe.data.batch_size // recipe.train.accumulate
    images = torch.randn(count, channels, size, size, device=accelerator.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(count, device=accelerator.device) % data.classes

    def in_parts() -> None:
        for micro in range(recipe.train.accumulate):
            learner.gradients(images, labels, last=micro == recipe.train.accumulate - 1)
        learner.step()

    learner.set_rate(recipe.optim.lr)

    def at_once() -> tuple[torch.Tensor, torch.Tensor]:
        return learner.learn(images, labels)

    step = Captured(at_once, needed=False) if capture else in_parts
    rate = recipe.data.batch_size / seconds_each(step, steps, accelerator.device)
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    product = product_rate(accelerator.device, precision)
    return {
        "images_per_second": rate,
        "gflop_per_image": floating / 1e9,
        "share_of_peak": rate * floating / product,
        "product_tflops": product / 1e12,
    }


def loader(recipe: Recipe, steps: int) -> Measurement:
    accelerator = make_accelerator(recipe)
    data = open_data(accelerator, recipe)
    stream = _endless(data)
    for _ in range(_WARM_UP):
        next(stream)
    _wait(accelerator.device)
    started = time.perf_counter()
    images = sum(len(next(stream).index) for _ in range(steps * recipe.train.accumulate))
    _wait(accelerator.device)
    return {"images_per_second": images / (time.perf_counter() - started)}


def _endless(data: Data) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from data.training(epoch)


def seconds_each(step: Callable[[], object], steps: int, device: torch.device) -> float:
    for _ in range(_WARM_UP):
        step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - started) / steps


def count_flops(network: torch.nn.Module, images: torch.Tensor) -> float:
    """Operations of forward and backward over the images: a multiplication and an addition count as two."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = network.training
    network.eval()  # batch norm must not see these images
    with FlopCounterMode(display=False) as counter:
        output = network(images)
        (output if isinstance(output, torch.Tensor) else output[0]).sum().backward()
    network.zero_grad()
    network.train(was_training)
    return float(counter.get_total_flops())


def product_rate(device: torch.device, precision: torch.dtype) -> float:
    """Operations a second of a large matrix product: what the device does at best, measured and not printed."""
    side = _PRODUCT_ROWS[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=precision) for _ in range(2))
    best = min(seconds_each(lambda: torch.mm(a, b), 3, device) for _ in range(3))
    return 2 * side**3 / best


@contextmanager
def utilisation() -> Iterator[Callable[[float, float], float | None]]:
    """Gives a function: mean utilisation (percent) of the first GPU as NVIDIA's library reported it between two times
    of time.perf_counter, or None where it reported none."""
    seen: list[tuple[float, float]] = []
    over = threading.Event()

    def read() -> None:
        # Without nvidia-ml-py, a driver, or a GPU that tells, there is an error (of no one class) and nothing is seen.
        with suppress(Exception):
            while not over.wait(_SECONDS_BETWEEN_READINGS):
                seen.append((time.perf_counter(), torch.cuda.utilization(0)))

    def mean(began: float, ended: float) -> float | None:
        found = [value for at, value in seen if began <= at <= ended]
        return sum(found) / len(found) if found else None

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield mean
    finally:
        over.set()
        thread.join()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


_SIDES = {"training": training, "compute": compute, "loader": loader}


def measured(side: str, work: dict[str, Any]) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        limits = [f"train.max_steps={work['steps'] + _WARM_UP}", f"run.dir={folder}"]
        limits += ["train.stop_at_interpolation=false"]
        return _SIDES[side](load(work["recipe"], [*work["settings"], *limits]), work["steps"])


if __name__ == "__main__":
    answer(measured)
