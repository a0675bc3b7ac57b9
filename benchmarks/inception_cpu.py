"""The small Inception's step on one CPU core in several forms: python benchmarks/inception_cpu.py [FORM ...].

Images for each second of CPU time, which other work on the machine hardly changes; the forms take turns.
"""

import resource
import sys

import torch
from torch.nn import functional as F

from fastgen import models

_FORMS = ("as trained", "rows of pixels", "compiled")
_BATCH, _TURNS = 128, 6


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Form:
    """A network and one batch. as trained: channels_last, fp32. rows of pixels: NCHW in memory."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        memory = torch.contiguous_format if name == "rows of pixels" else torch.channels_last
        self._network = models.make("fastgen_inception").to(memory_format=memory)
        self._images = torch.randn(_BATCH, 3, 28, 28).contiguous(memory_format=memory)
        self._labels = torch.randint(0, 10, (_BATCH,))
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=0.01, momentum=0.9, fused=True)
        if name == "compiled":
            self._network.compile(dynamic=False)
        self.step()

    def step(self) -> float:
        """Train on the batch once. Returns images for each second of CPU time."""
        began = cpu_seconds()
        F.cross_entropy(self._network(self._images), self._labels).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        return _BATCH / (cpu_seconds() - began)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    forms = {name: Form(name) for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_TURNS):
        for name, form in forms.items():
            rates[name].append(form.step())
    print("| form | images for each second of a core |\n| --- | --- |")
    for name, found in rates.items():
        print(f"| {name} | {max(found):.1f} ({min(found):.1f} to {max(found):.1f}) |")


if __name__ == "__main__":
    main(sys.argv[1:] or list(_FORMS))
