"""Measures one loop that trains the MLP 1x512 on CIFAR-10, as `fastgen.bench.subprocesses.measure` starts it.

All loops do the same work: batches of 128 in random order, central 28x28 pixels, per-image whitening, forward,
backward, SGD with momentum, in the same precision, on the same device.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from fastgen.bench.subprocesses import Measurement, answer

BATCH = 128  # images
_WARM_UP = 50  # steps before the clock starts
_SLOW_STEPS = 200  # steps at most that are timed of a loop that decodes in Python, so that it ends within minutes


def cores() -> int:
    return len(os.sched_getaffinity(0))


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's training set as uint8 (50000, 32, 32, 3) and int64 labels, from the baked set."""
    from fastgen.recipe.load import load
    from fastgen.sets import bake_recipe

    beton = bake_recipe(load("cifar10_mlp_1x512_random")).splits["train"]
    return beton.raw_images(), beton.columns["random_1_s0"]


def fastgen(steps: int, precision: str) -> float:
    """The recipe cifar10_mlp_1x512_random through fastgen's own loop, resident backend."""
    from fastgen.recipe.load import load
    from fastgen.training.loop import train

    with tempfile.TemporaryDirectory() as folder:
        # images_per_second counts neither the first step nor evaluation; the other warm-up steps are as fast as all.
        settings = [f"data.batch_size={BATCH}", f"train.precision={precision}", f"train.max_steps={steps + _WARM_UP}"]
        settings += [f"run.dir={folder}", "train.stop_at_interpolation=false"]
        rate: float = train(load("cifar10_mlp_1x512_random", settings)).images_per_second
        return rate


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _step(precision: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function that takes one step of a new network on (float images, labels). All loops but fastgen's share it."""
    device = _device()
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    layers = (torch.nn.Linear(2352, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    network = torch.nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step(inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(network(inputs.reshape(len(labels), -1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _timed(batches: Iterable[Any], step: Callable[[torch.Tensor, torch.Tensor], Any], steps: int) -> float:
    """Images per second over `steps` steps after the warm-up."""
    started = 0.0
    for done, (inputs, labels) in enumerate(batches):
        if done == _WARM_UP:
            _wait()
            started = time.perf_counter()
        step(inputs, labels)
        if done == _WARM_UP + steps - 1:
            _wait()
            return steps * BATCH / (time.perf_counter() - started)
    raise AssertionError("too few batches")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _whiten(images: torch.Tensor) -> torch.Tensor:
    pixels = images[:, 2:30, 2:30].reshape(len(images), -1).float()
    pixels = pixels - pixels.mean(1, keepdim=True)
    deviation = pixels.square().mean(1, keepdim=True).sqrt()
    return pixels / deviation.clamp_min(255 / pixels.shape[1] ** 0.5)


def bare(steps: int, precision: str, beforehand: bool) -> float:
    """Ten lines over tensors on the device. beforehand: whitened before the loop, so that no data work is in it."""
    pixels, given = images_and_labels()
    images, labels = (torch.from_numpy(array).to(_device()) for array in (pixels, given))
    inputs = torch.cat([_whiten(part) for part in images.split(1000)]) if beforehand else images

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            for rows in torch.randperm(len(inputs), device=inputs.device).split(BATCH):
                if len(rows) == BATCH:
                    yield (inputs[rows] if beforehand else _whiten(inputs[rows])), labels[rows]

    return _timed(batches(), _step(precision), steps)


class _Images(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """As torchvision.datasets.CIFAR10: arrays in memory, a PIL image for each sample."""

    def __init__(self, transform: Callable[[Image.Image], torch.Tensor] | None) -> None:
        self.images, self.labels = images_and_labels()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        assert self.transform is not None
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def _standardised(image: torch.Tensor) -> torch.Tensor:
    return (image - image.mean()) / image.std(correction=0).clamp_min(image.numel() ** -0.5)


def _pil() -> transforms.Compose:
    return transforms.Compose([transforms.CenterCrop(28), transforms.ToTensor(), transforms.Lambda(_standardised)])


def _endless(loader: Iterable[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    device = _device()
    while True:
        for inputs, labels in loader:
            yield inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def data_loader(steps: int, precision: str, workers: int) -> float:
    """torchvision transforms on PIL images in a DataLoader, as pluskid/fitting-random-labels has one worker do."""
    method = "fork" if workers else None
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        _Images(_pil()), BATCH, shuffle=True, drop_last=True, num_workers=workers, multiprocessing_context=method,
        pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    return _timed(_endless(loader), _step(precision), min(steps, _SLOW_STEPS))


def timm_loop(steps: int, precision: str) -> float:
    """timm's train.py: its loader, and a loss that is read at each step for the running mean."""
    from timm.data import create_loader
    from timm.utils import AverageMeter

    dataset: Any = _Images(None)
    loader = create_loader(
        dataset, (3, 28, 28), BATCH, is_training=True, use_prefetcher=False, num_workers=cores(), device=_device()
    )
    dataset.transform = _pil()  # the same work as the others, in place of timm's crops
    step, losses = _step(precision), AverageMeter()

    def read(inputs: torch.Tensor, labels: torch.Tensor) -> None:
        losses.update(step(inputs, labels).item(), len(labels))

    return _timed(_endless(loader), read, min(steps, _SLOW_STEPS))


LOOPS: dict[str, Callable[[int, str], float]] = {
    "fastgen": fastgen,
    "bare loop over bytes on the device": lambda steps, precision: bare(steps, precision, beforehand=False),
    "bare loop over floats prepared beforehand": lambda steps, precision: bare(steps, precision, beforehand=True),
    "DataLoader, 1 worker": lambda steps, precision: data_loader(steps, precision, 1),
    "DataLoader, no workers": lambda steps, precision: data_loader(steps, precision, 0),
    "DataLoader, a worker per core": lambda steps, precision: data_loader(steps, precision, cores()),
    "timm's loop, a worker per core": timm_loop,
}


def measured(loop: str, work: dict[str, Any]) -> Measurement:
    return {"images_per_second": LOOPS[loop](work["steps"], work["precision"])}


if __name__ == "__main__":
    answer(measured)
