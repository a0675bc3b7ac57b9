"""How long a GPU stood still between the steps of a training, in its own time."""

import torch


class Gaps:
    """The time between the end of a step's work on the GPU and the beginning of the next one's.

    The process runs ahead of the GPU, and waits for a loader that is as far ahead, so its own waiting says nothing of
    the GPU's. Events in the GPU's stream do: where the next step's work is there in time, nothing lies between them.
    Reading them waits for nothing: what the GPU has not done yet is not counted.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._ended: torch.cuda.Event | None = None
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []  # end of a step, begin of the next

    def end(self) -> None:
        """All of a step's work is launched."""
        self._ended = _now()

    def begin(self) -> None:
        """The next step's batch is there, and its work is about to be launched."""
        if self._ended is not None:
            self._pending.append((self._ended, _now()))
        self._ended = None
        self._collect()

    def interrupt(self) -> None:
        """What comes now is no step: an evaluation, say."""
        self._ended = None

    @property
    def seconds(self) -> float:
        self._collect()
        return self._seconds

    def _collect(self) -> None:
        while self._pending and self._pending[0][1].query():
            ended, began = self._pending.pop(0)
            self._seconds += ended.elapsed_time(began) / 1000


def _now() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
