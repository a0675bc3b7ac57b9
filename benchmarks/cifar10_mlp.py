"""CIFAR-10 training of the MLP 1x512: fastgen beside a bare loop over tensors and a torchvision DataLoader.

    FASTGEN_DATA=... python benchmarks/cifar10_mlp.py [--repeats 5] [--steps 400] [--precision bf16] [--json OUT.json]

All do the same work: batches of 128 in random order, central 28x28 pixels, per-image whitening, forward, backward,
SGD with momentum, in the same precision. They run in turn, each in a process of its own, with warm-up outside; medians
and ranges of the rates are shown, and their ratios.

  fastgen      the recipe cifar10_mlp_1x512_random through fastgen.train, resident backend
  bare         a loop of ten lines over uint8 tensors in memory, which whitens each batch
  bare-float   the same loop over floats whitened beforehand: no data work at all, the compute limit
  workers-1    torchvision transforms on PIL images in a DataLoader with one worker, as pluskid/fitting-random-labels
  workers-0    the same in the training process, the DataLoader's default
  workers-all  the same with one worker per core
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOOPS = ("fastgen", "bare", "bare-float", "workers-1", "workers-0", "workers-all")
BATCH, WARM_UP = 128, 50


def cores() -> int:
    return len(os.sched_getaffinity(0))


def images_and_labels():
    """CIFAR-10's training set as uint8 (50000, 32, 32, 3) and int64 labels, from the baked set."""
    import torch

    from fastgen.recipe import load
    from fastgen.training.data import bake_recipe

    beton = bake_recipe(load("cifar10_mlp_1x512_random")).betons["train"]
    return torch.from_numpy(beton.raw_images()), torch.from_numpy(beton.columns["random_1_s0"])


def run_fastgen(steps: int, precision: str) -> float:
    from fastgen.recipe import load
    from fastgen.train import train

    with tempfile.TemporaryDirectory() as folder:
        # The warm-up steps are a tenth of the whole and run as fast as the others but for the first, which is not
        # counted; images_per_second leaves evaluation out.
        settings = [
            f"data.batch_size={BATCH}",
            f"train.precision={precision}",
            f"train.max_steps={steps + WARM_UP}",
            f"run.dir={folder}",
            "train.stop_at_interpolation=false",
        ]
        return train(load("cifar10_mlp_1x512_random", settings))["images_per_second"]


def training_step(precision: str):
    """A function that takes one step of a new network on (float images, labels): what every loop here shares."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2352, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)

    def step(inputs, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(network(inputs.reshape(len(labels), -1)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed(batches, step, steps: int) -> float:
    """Images per second over `steps` steps after the warm-up."""
    for done, (inputs, labels) in enumerate(batches):
        if done == WARM_UP:
            started = time.perf_counter()
        step(inputs, labels)
        if done == WARM_UP + steps - 1:
            return steps * BATCH / (time.perf_counter() - started)
    raise AssertionError("too few batches")


def whiten(images):
    pixels = images[:, 2:30, 2:30].reshape(len(images), -1).float()
    pixels = pixels - pixels.mean(1, keepdim=True)
    deviation = pixels.square().mean(1, keepdim=True).sqrt()
    return pixels / deviation.clamp_min(255 / pixels.shape[1] ** 0.5)


def run_bare(steps: int, precision: str, beforehand: bool) -> float:
    import torch

    images, labels = images_and_labels()
    inputs = torch.cat([whiten(part) for part in images.split(1000)]) if beforehand else images

    def batches():
        while True:
            for rows in torch.randperm(len(inputs)).split(BATCH):
                if len(rows) == BATCH:
                    yield (inputs[rows] if beforehand else whiten(inputs[rows])), labels[rows]

    return timed(batches(), training_step(precision), steps)


def run_dataloader(steps: int, precision: str, workers: int) -> float:
    import torch
    from PIL import Image
    from torchvision import transforms

    images, labels = (tensor.numpy() for tensor in images_and_labels())

    def standardize(image):
        return (image - image.mean()) / image.std(correction=0).clamp_min(image.numel() ** -0.5)

    transform = transforms.Compose([transforms.CenterCrop(28), transforms.ToTensor(), transforms.Lambda(standardize)])

    class Images(torch.utils.data.Dataset):
        """As torchvision.datasets.CIFAR10: arrays in memory, a PIL image for each sample."""

        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            return transform(Image.fromarray(images[i])), int(labels[i])

    method = "fork" if workers else None
    loader = torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, drop_last=True, num_workers=workers, multiprocessing_context=method
    )

    def batches():
        while True:
            yield from loader

    return timed(batches(), training_step(precision), steps)


def measure(loop: str, steps: int, precision: str) -> float:
    if loop == "fastgen":
        return run_fastgen(steps, precision)
    if loop.startswith("workers-"):
        number = loop.removeprefix("workers-")
        return run_dataloader(min(steps, 200), precision, cores() if number == "all" else int(number))
    return run_bare(steps, precision, beforehand=loop == "bare-float")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)  # one measurement, in this process
    arguments = parser.parse_args()
    if arguments.loop:
        print(f"rate {measure(arguments.loop, arguments.steps, arguments.precision)}")
        return
    rates: dict[str, list[float]] = {loop: [] for loop in LOOPS}
    for _ in range(arguments.repeats):
        for loop in LOOPS:
            options = ["--loop", loop, "--steps", str(arguments.steps), "--precision", arguments.precision]
            command = [sys.executable, __file__, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rates[loop].append(float(done.stdout.rpartition("rate ")[2]))
    import torch

    result = {
        "command": "python benchmarks/cifar10_mlp.py " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {cores()} cores, no GPU used",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "images_per_second": rates,
        "ratios": {},
    }
    medians = {loop: statistics.median(values) for loop, values in rates.items()}
    print(f"{'loop':12} {'images/s':>10} {'range':>17} {'fastgen is':>12}")
    for loop, values in rates.items():
        # Ratios of neighbours in time, so that a slow minute of the machine touches both.
        ratio = statistics.median(f / v for f, v in zip(rates["fastgen"], values, strict=True))
        result["ratios"][loop] = ratio
        print(f"{loop:12} {medians[loop]:10,.0f} {min(values):8,.0f}-{max(values):8,.0f} {ratio:10.2f} x")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
