"""Several networks in one process, their weights stacked (torch.func), beside as many that train one after another.

    python benchmarks/stacked.py [--networks 1,2,4,8] [--device cuda] [--seconds 3] [--json OUT.json]

Each network has its own initialisation and its own batches, as `fastgen memorization` needs, and takes the steps of the
paper's recipes (cross-entropy, SGD with momentum 0.9, batch norm over its own batch). What is measured are the steps
alone, on one core or on one GPU with CUDA graphs: the most that stacking can gain. Images a second of all networks
together, and the ratio to one at a time; both forms must reach the same weights.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from fastgen.bench.results import write_figures
from fastgen.models import make

BATCHES = {"fastgen_mlp_1x512": 128, "fastgen_alexnet": 128, "fastgen_inception": 128}
SIDE, RATE, MOMENTUM = 28, 0.01, 0.9
Tensors = dict[str, torch.Tensor]


def networks(name: str, count: int, device: str) -> list[nn.Module]:
    found: list[nn.Module] = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append(make(name, num_classes=10, img_size=SIDE).to(device, memory_format=torch.channels_last))
    return found


def one_after_another(all_of: list[nn.Module], images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizers = [torch.optim.SGD(each.parameters(), RATE, MOMENTUM, fused=True) for each in all_of]

    def step() -> None:
        for network, optimizer, x, y in zip(all_of, optimizers, images, labels, strict=True):
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

    return step


def stacked(all_of: list[nn.Module], images: torch.Tensor, labels: torch.Tensor) -> tuple[Callable[[], None], Tensors]:
    """The step, and the weights that it changes, each of shape (networks, ...)."""
    parameters, buffers = stack_module_state(all_of)
    velocities = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def loss(weights: Tensors, state: Tensors, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(functional_call(all_of[0], (weights, state), (x,)), y)

    gradients = vmap(grad(loss), randomness="different")

    @torch.no_grad()
    def step() -> None:
        found = gradients(parameters, buffers, images, labels)
        torch._foreach_mul_(list(velocities.values()), MOMENTUM)
        torch._foreach_add_(list(velocities.values()), [found[name] for name in velocities])
        torch._foreach_add_(list(parameters.values()), list(velocities.values()), alpha=-RATE)

    return step, parameters


def graphed(step: Callable[[], None], device: str) -> Callable[[], None]:
    if device == "cpu":
        return step
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step()
    return graph.replay


def steps_per_second(step: Callable[[], None], device: str, seconds: float) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    began, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - began < seconds:
        step()
        wait()
        steps += 1
    return steps / (time.perf_counter() - began)


def measure(name: str, count: int, device: str, seconds: float) -> dict[str, float]:
    torch.manual_seed(0)
    images = torch.randn(count, BATCHES[name], 3, SIDE, SIDE, device=device)
    labels = torch.randint(10, (count, BATCHES[name]), device=device)
    singles = networks(name, count, device)
    alone = one_after_another(singles, images, labels)
    together, weights = stacked(networks(name, count, device), images, labels)
    for _ in range(3):
        alone()
        together()
    for key, value in weights.items():
        expected = torch.stack([single.get_parameter(key) for single in singles])
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)
    alone, together = graphed(alone, device), graphed(together, device)
    rates: dict[str, list[float]] = {"one after another": [], "stacked": []}
    for _ in range(3):  # in turn
        rates["one after another"].append(steps_per_second(alone, device, seconds))
        rates["stacked"].append(steps_per_second(together, device, seconds))
    best = {kind: max(values) * count * BATCHES[name] for kind, values in rates.items()}
    return best | {"ratio": best["stacked"] / best["one after another"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="1,2,4,8")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # a step is recorded on the stream on which its first ones ran
    found: dict[str, dict[str, float]] = {}
    for name in BATCHES:
        for count in [int(text) for text in arguments.networks.split(",")]:
            one = found[f"{name}, {count}"] = measure(name, count, arguments.device, arguments.seconds)
            print(f"{name}, {count} networks: " + ", ".join(f"{kind} {value:,.2f}" for kind, value in one.items()))
    if arguments.json:
        write_figures(arguments.json, "python benchmarks/stacked.py " + " ".join(sys.argv[1:]), {"images/s": found})


if __name__ == "__main__":
    main()
