"""Work on a GPU as one CUDA graph: hundreds of kernels, launched at once.

The kernels of a small network take less time than the process needs to launch them one by one, so the GPU waits for it.
A CUDA graph records the kernels of one call, with the addresses that they read and write, and launches them all again.
"""

from collections.abc import Callable

import torch
from accelerate import Accelerator

from fastgen.recipe.schema import Recipe
from pipelines.errors import UserError

# Before recording: kernels are compiled and chosen, and the optimizer makes its state, in the first calls.
_WARM_UP = 3

Tensors = tuple[torch.Tensor, ...]


class Captured:
    """A function of tensors on the GPU that runs as it is at first, and then as a CUDA graph.

    It must do the same each time: no choice by values, no random numbers but PyTorch's own on the GPU. Inputs of other
    shapes than the first ones go to the function as it is. What it returns is the caller's: copies.

    Raises UserError where it cannot be recorded, as it waits for the GPU, say.
    """

    def __init__(self, work: Callable[..., Tensors]) -> None:
        self._work, self._calls = work, 0
        self._stream = torch.cuda.Stream()
        self._given: Tensors = ()  # by the last call
        self._inputs: Tensors = ()  # what the graph reads
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Tensors = ()

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        if not self._given:
            self._given = inputs
        if any(a.shape != b.shape or a.stride() != b.stride() for a, b in zip(inputs, self._given, strict=True)):
            return self._work(*inputs)
        if self._calls < _WARM_UP:
            self._calls += 1
            return self._beside(inputs)
        if self._graph is None:
            self._graph = self._record(inputs)
        for mine, new, old in zip(self._inputs, inputs, self._given, strict=True):
            if new is not old:  # the epoch's number is the same tensor in all its steps
                mine.copy_(new)
        self._given = inputs
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)

    def _beside(self, inputs: Tensors) -> Tensors:
        """Run as it is, in the stream that will record: autograd remembers in which one a parameter was first used."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            outputs = self._work(*inputs)
        here.wait_stream(self._stream)
        return outputs

    def _record(self, inputs: Tensors) -> torch.cuda.CUDAGraph:
        self._inputs = tuple(each.clone() for each in inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on: a loader's copy batches meanwhile.
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = self._work(*self._inputs)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"a step cannot be recorded as a CUDA graph ({reason}): set train.cuda_graphs=off"
            ) from error
        return graph


def wants_capture(recipe: Recipe, accelerator: Accelerator) -> bool:
    """Whether steps and evaluations run as CUDA graphs. Raises UserError for train.cuda_graphs=on where they cannot."""
    wish = recipe.train.cuda_graphs
    if wish == "off":
        return False
    reasons = {
        "a GPU": accelerator.device.type == "cuda",
        "one process": accelerator.num_processes == 1,
        "train.accumulate=1": recipe.train.accumulate == 1,
        "images of one size (no data.progressive)": recipe.data.progressive.start_size is None,
        "optim.name=sgd or adamw": recipe.optim.name in ("sgd", "adamw"),
        "train.precision=bf16 or fp32": accelerator.scaler is None,
    }
    missing = [need for need, met in reasons.items() if not met]
    if missing and wish == "on":
        raise UserError(f"train.cuda_graphs=on needs {', '.join(missing)}; auto uses CUDA graphs where they can be")
    return not missing
