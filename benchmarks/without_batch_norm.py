"""What makes the small Inception learn without batch norm: random labels of 256 images at several starts and rates.

    python benchmarks/without_batch_norm.py [--steps N] [INIT:RATE[:WARMUP] ...]

INIT: glorot, he or pytorch (initial weights). RATE: SGD's, with momentum 0.9 and batches of 32. WARMUP: steps in which
it grows from 0. Prints loss (nats) and accuracy (percent) over each tenth of the steps, as a table.
"""

import argparse

import torch
from torch import nn
from torch.nn import functional as F

from fastgen import models
from fastgen.theory.points import load_points
from pipelines.corruptions import LabelSpec
from pipelines.sources import SourceSpec
from pipelines.view.augment import center_crop, whiten

_IMAGES, _BATCH, _PARTS = 256, 32, 10
_USUAL = ["he:0.1", "he:0.1:160", "he:0.03", "he:0.01", "glorot:0.1", "glorot:0.01", "pytorch:0.1"]


def start(network: nn.Module, init: str) -> None:
    """Draw the convolutions' weights anew."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if init == "pytorch":
                module.reset_parameters()
                continue
            draw = {"glorot": nn.init.xavier_uniform_, "he": nn.init.kaiming_uniform_}[init]
            draw(module.weight, **({"nonlinearity": "relu"} if init == "he" else {}))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def trained(init: str, rate: float, warmup: int, steps: int) -> list[str]:
    """ "loss / accuracy" over each tenth of the steps."""
    points = load_points(SourceSpec(source="cifar10", limit=_IMAGES, limit_test=1), LabelSpec(kind="random"))
    images = torch.from_numpy(points.images.copy()).permute(0, 3, 1, 2)
    images = whiten(center_crop(images, 28).float()).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(points.labels)
    torch.manual_seed(0)
    network = models.make("fastgen_inception_nobn").to(memory_format=torch.channels_last)
    start(network, init)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    order, told, losses, hits = torch.Generator().manual_seed(1), [], [], []
    for step in range(steps):
        if step % (_IMAGES // _BATCH) == 0:
            batches = torch.randperm(_IMAGES, generator=order).split(_BATCH)
        batch = batches[step % (_IMAGES // _BATCH)]
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / warmup) if warmup else rate
        optimizer.zero_grad()
        output = network(images[batch])
        loss = F.cross_entropy(output, labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        hits += (output.argmax(1) == labels[batch]).tolist()
        if (step + 1) % (steps // _PARTS) == 0:
            told.append(f"{sum(losses) / len(losses):.2f} / {100 * sum(hits) / len(hits):.0f}")
            losses, hits = [], []
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("starts", nargs="*", default=_USUAL)
    arguments = parser.parse_args()
    ends = [str(arguments.steps * (part + 1) // _PARTS) for part in range(_PARTS)]
    print(f"| start and rate | {' | '.join(ends)} |\n| --- |{' --- |' * _PARTS}")
    for text in arguments.starts:
        init, rate, warmup = (*text.split(":"), "0")[:3]
        told = trained(init, float(rate), int(warmup), arguments.steps)
        print(f"| {text} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
