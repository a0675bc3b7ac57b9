"""Batches from the memory of the process to a GPU, one ahead of the receiver and beside what the GPU computes."""

import time
from collections import deque
from collections.abc import Iterator

import torch


class Transfer:
    """Copies batches in a stream of its own, so that the GPU's copy engine works while its processors do.

    seconds: how long this process has been busy with starting copies so far; 0 on a CPU, where there are none.

    Source: PyTorch's notes on CUDA semantics ("CUDA streams", "Use pinned memory buffers").
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    def __call__(self, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """batches: tensors in pinned memory, which is theirs alone. Yields them on the device, in their order."""
        if self._device.type != "cuda":
            yield from batches
            return
        stream = torch.cuda.Stream(self._device)
        ahead: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        for batch in batches:
            started = time.perf_counter()
            with torch.cuda.stream(stream):
                # PyTorch's pinned allocator does not give the source's memory away before the copy is done.
                copy = batch.to(self._device, non_blocking=True)
                done = torch.cuda.Event()
                done.record(stream)
            self.seconds += time.perf_counter() - started
            ahead.append((copy, done))
            if len(ahead) == 2:
                yield self._received(*ahead.popleft())
        while ahead:
            yield self._received(*ahead.popleft())

    @staticmethod
    def _received(copy: torch.Tensor, done: torch.cuda.Event) -> torch.Tensor:
        """The copy, once the receiver's stream waits for it; its memory is not reused before that stream is done."""
        receiver = torch.cuda.current_stream(copy.device)
        receiver.wait_event(done)
        copy.record_stream(receiver)
        return copy
