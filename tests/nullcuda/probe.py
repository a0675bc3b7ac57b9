"""Trains runs on the runtime that does nothing, and writes what it counted: started by `runtime.Runtime.train`.

No number that the device computes means anything: its memory holds what was copied there before. Where the training
reads several, it gets ones; where it reads a single one, zero (no error, no overflow).
"""

import collections
import ctypes
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from fastgen.recipe.load import parse
from fastgen.training import checkpoints, launch, loop, prepare
from fastgen.training.evaluation import Evaluator

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = ctypes.CDLL("libnullcuda.so")


class Phases:
    """What was counted in each part of a run: 'prepare', 'step 1', 'batch 1' (the loader's part of it), ..., 'log',
    "epoch's end", 'evaluate', 'save', 'finish', and 'between' all of these."""

    def __init__(self) -> None:
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.waits: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self._phase = "between"
        self._room = ctypes.create_string_buffer(1 << 20)
        self._told = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._waits)  # kept, as the library calls it
        LIBRARY.nullcuda_on_wait(self._told)

    def _waits(self, name: bytes) -> None:
        """A line of ours waits. The device's threads, which run backward passes, have none."""
        ours = (str(ROOT / "fastgen"), str(ROOT / "pipelines"))
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(ours)]
        at = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}" if frames else "a thread of PyTorch's"
        self.waits[self._phase][f"{at}: {name.decode()}"] += 1

    def enter(self, phase: str) -> str:
        """Begin a phase, and return the one that it ends."""
        assert LIBRARY.nullcuda_take(self._room, len(self._room)) < len(self._room)
        for line in self._room.value.decode().splitlines():
            number, _, name = line.partition("\t")
            self.counts[self._phase][name] += int(number)
        before, self._phase = self._phase, phase
        return before

    def within(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, counted as a phase of its own. A {} in its name is the number of the step that the run takes."""

        @functools.wraps(work)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before = self.enter(phase.format(args[0].position.step + 1) if "{}" in phase else phase)
            try:
                return work(*args, **kwargs)
            finally:
                self.enter(before)

        return wrapped

    def found(self) -> dict[str, Any]:
        """For each phase, how many kernels, graphs, ..., and by which lines it waited how often."""
        self.enter("")
        told = {}
        for phase, counts in self.counts.items():
            kernels, recorded, rest = collections.Counter(), 0, {}
            for name, number in counts.items():
                kind, _, kernel = name.partition(" ")
                if kind == "kernel":
                    kernels[kernel] += number
                elif kind == "recorded":
                    recorded += number
                else:
                    rest[name] = number
            told[phase] = {"kernels": kernels.total(), "by_kernel": dict(kernels), "recorded": recorded, "calls": rest}
            told[phase]["waits"] = dict(self.waits[phase])
        return told


def ones(values: Any) -> Any:
    return [ones(value) for value in values] if isinstance(values, list) else 1.0


@contextmanager
def replaced(*replacements: tuple[Any, str, Any]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def counted(measure: Callable[..., Any]) -> Callable[..., Any]:
    """`Evaluator.measure`, with the count of samples as the batches had them: an evaluation checks it."""

    def wrapped(self: Evaluator, batches: Any) -> dict[str, Any]:
        sizes: list[int] = []

        def passed() -> Iterator[Any]:
            for batch in batches:
                sizes.append(len(batch.label))
                yield batch

        found = measure(self, passed())
        return {**found, "count": sum(gather_object([sum(sizes)]))}

    return wrapped


def on_the_device(make: Callable[..., torch.nn.Module]) -> Callable[..., torch.nn.Module]:
    def wrapped(*arguments: Any) -> torch.nn.Module:
        with torch.device("cuda"):
            return make(*arguments)

    return wrapped


def convolutions_as_of_cudnn() -> torch.library.Library:
    """cuDNN, too large for a stand-in, is left out, and PyTorch's own convolution goes through a batch one image at a
    time. So one is counted as what it would launch: a kernel for the output, and one for each gradient."""
    library = torch.library.Library("aten", "IMPL")

    def like(source: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        last = source.dim() == 4 and source.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.empty(shape, dtype=source.dtype, device=source.device, memory_format=layout)

    def convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups):  # type: ignore[no-untyped-def]
        LIBRARY.nullcuda_kernel(b"convolution")
        assert not transposed
        sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        out = like(x, (len(x), len(weight), *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)))
        return out if bias is None else out.add_(bias[:, None, None])

    def backward(gradient, x, weight, bias_sizes, *rest):  # type: ignore[no-untyped-def]
        wanted = rest[-1]
        for each in wanted[:2]:
            if each:
                LIBRARY.nullcuda_kernel(b"convolution, backward")
        bias = gradient.sum((0, 2, 3)) if wanted[2] else None
        return *(like(t, t.shape) if each else None for t, each in zip((x, weight), wanted, strict=False)), bias

    library.impl("convolution", convolution, "CUDA")
    library.impl("convolution_backward", backward, "CUDA")
    return library


def train(run: dict[str, Any]) -> dict[str, Any]:
    """The phases of a run, or its error."""
    AcceleratorState._reset_state(True)
    phases = Phases()
    handlers, tolist, item = launch.InitProcessGroupKwargs, torch.Tensor.tolist, torch.Tensor.item

    def read_one(self: torch.Tensor) -> Any:
        return type(item(self))(0) if self.is_cuda else item(self)

    def read(self: torch.Tensor) -> Any:
        return ones(tolist(self)) if self.is_cuda else tolist(self)

    names = {
        "prepare": "prepare",
        "log_progress": "log",
        "end_epoch": "epoch's end",
        "evaluate": "evaluate",
        "fits_more": "look",
        "finish": "finish",
    }
    changes = [(loop, name, phases.within(phase, getattr(loop, name))) for name, phase in names.items()]
    changes += [(loop, "update", phases.within("step {}", loop.update))]
    changes += [(loop, "next_batch", phases.within("batch {}", loop.next_batch))]
    save = (lambda *arguments: None) if run["large"] else phases.within("save", checkpoints.save)
    changes += [(checkpoints, "save", save), (torch.Tensor, "tolist", read)]
    changes += [(torch.Tensor, "item", read_one)]
    if run["large"]:
        changes += [(prepare, "make_network", on_the_device(prepare.make_network))]
        # Of timm's initialisation, and the one kernel that PyTorch has compiled by NVRTC.
        changes += [(torch.Tensor, "erfinv_", lambda values: values)]
    changes += [(Evaluator, "measure", counted(Evaluator.measure))]
    if "WORLD_SIZE" in os.environ:  # NCCL asks what nothing here answers; gloo copies by the host, whose memory it is
        changes += [(launch, "InitProcessGroupKwargs", lambda timeout: handlers(backend="gloo", timeout=timeout))]
    try:
        with replaced(*changes):
            summary = loop.train(parse(run["settings"]), [])
        return {"device": summary.device, "steps": summary.steps, "phases": phases.found()}
    except Exception:
        return {"error": traceback.format_exc()}


def main() -> None:
    torch.backends.cudnn.enabled = False
    kept = convolutions_as_of_cudnn()  # as long as it lives
    found = [train(run) for run in json.loads(Path(sys.argv[1]).read_text())]
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(found))
    del kept


if __name__ == "__main__":
    main()
