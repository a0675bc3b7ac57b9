"""Work on a GPU as one CUDA graph: hundreds of kernels, launched at once.

The kernels of a small network take less time than the process needs to launch them one by one, so the GPU waits for it.
A CUDA graph records the kernels of one call, with the addresses that they read and write, and launches them all again.
"""

import warnings
from collections.abc import Callable

import torch
from accelerate import Accelerator

from fastgen.recipe.schema import Recipe
from pipelines.errors import Note, UserError

# Before recording: kernels are compiled and chosen, and the optimizer makes its state, in the first calls.
_WARM_UP = 3

Tensors = tuple[torch.Tensor, ...]


class Captured:
    """A function of tensors on the GPU that runs as it is at first, and then as a CUDA graph.

    It must do the same each time: no choice by values, no random numbers but PyTorch's own on the GPU. Inputs of other
    shapes than the first ones go to the function as it is. What it returns is the caller's: copies.

    One that cannot be recorded, as it waits for the GPU, say, goes on as it is, with a warning; with `needed` that is a
    UserError. It may be called again after it raised an error.
    """

    def __init__(self, work: Callable[..., Tensors], needed: bool) -> None:
        self._work, self._needed = work, needed
        self._calls = 0  # to warm up
        self._stream = torch.cuda.Stream()
        self._given: Tensors = ()  # by the last call
        self._inputs: Tensors = ()  # what the graph reads
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded = True  # or the graph is none, and kept because the memory that it began to take is its own
        self._outputs: Tensors = ()

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        if not self._given:
            self._given = inputs
        same = all(a.shape == b.shape and a.stride() == b.stride() for a, b in zip(inputs, self._given, strict=True))
        if same and self._calls < _WARM_UP:
            self._calls += 1
            return self._beside(inputs)
        if same and self._graph is None:
            self._record(inputs)
        if not same or not self._recorded:
            return self._work(*inputs)
        assert self._graph is not None
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

    def _record(self, inputs: Tensors) -> None:
        self._inputs = tuple(each.clone() for each in inputs)
        self._graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            # Other threads may go on: a loader's copy batches meanwhile.
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = self._work(*self._inputs)
        except RuntimeError as error:
            self._recorded = False
            generator.graphsafe_set_state(before)  # which else still takes the recording for going on
            reason = f"{self._work.__name__} cannot be recorded as a CUDA graph ({_first_line_of_cause(error)})"
            if self._needed:
                raise UserError(f"{reason}: set train.cuda_graphs=off") from error
            warnings.warn(Note(f"{reason}: its kernels are launched one by one"), stacklevel=2)


def _first_line_of_cause(error: BaseException) -> str:
    """Ending a recording that has failed raises another error."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).strip().partition("\n")[0]


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
        # These draw on the CPU.
        "no train.mixup or train.cutmix": not recipe.train.mixes,
        "data.augment.rand_ops=0": recipe.data.augment.rand_ops == 0,
    }
    missing = [need for need, met in reasons.items() if not met]
    if missing and wish == "on":
        raise UserError(f"train.cuda_graphs=on needs {', '.join(missing)}; auto uses CUDA graphs where they can be")
    if missing and accelerator.device.type == "cuda" and accelerator.is_main_process:
        warnings.warn(Note(f"steps are no CUDA graphs, which need {', '.join(missing)}"), stacklevel=2)
    return not missing
