"""Stalls of a GPU, by events that only pretend to be on one."""

from dataclasses import dataclass

import pytest

from fastgen.training import gaps
from fastgen.training.position import Position
from fastgen.training.stages import AUGMENT, EVALUATE, LOG, STEP, WAIT, Clock, advice


@dataclass
class Event:
    """at: milliseconds in the GPU's time, None where it has not come there yet."""

    at: float | None

    def query(self):
        return self.at is not None

    def elapsed_time(self, later):
        return later.at - self.at


@pytest.fixture
def gpu(monkeypatch):
    """Set `at` to the times of the next events; `now` to the process's time in seconds."""

    class Gpu:
        at: list[float | None]
        now = 0.0
        events: list[Event]

    gpu = Gpu()
    gpu.events = []

    def record():
        gpu.events.append(Event(gpu.at.pop(0)))
        return gpu.events[-1]

    monkeypatch.setattr(gaps, "_now", record)
    monkeypatch.setattr("fastgen.training.stages.time.perf_counter", lambda: gpu.now)
    return gpu


def steps(clock, gpu, count, seconds):
    """`count` steps, of which the process spends all but a moment waiting for the loader."""
    for number in range(count):
        clock.enter(WAIT)
        gpu.now += seconds
        clock.enter(AUGMENT)
        clock.enter(STEP)
        clock.step(Position(steps_per_epoch=100, step=number + 1))
    clock.enter(WAIT)


def test_a_process_that_waits_is_no_gpu_that_waits(gpu):
    clock = Clock(batch_size=100, gpu=True)
    # The end of each step and the beginning of the next: 2 ms apart of 100.
    gpu.at = [time for step in range(1, 12) for time in (100 * step, 100 * step + 2)]
    steps(clock, gpu, 11, 0.1)
    clock.enter(LOG)
    assert clock.seconds[WAIT] == pytest.approx(1.0) and clock.stall_fraction == pytest.approx(0.02)
    assert advice(clock, "dali", "cuda", 500) == "the cuda is the limit at 1,000 images/s, and the loader keeps up"


def test_a_gpu_that_waits_is_told_with_its_own_rate(gpu):
    clock = Clock(batch_size=100, gpu=True)
    gpu.at = [time for step in range(1, 12) for time in (100 * step - 40, 100 * step)]
    steps(clock, gpu, 11, 0.1)
    clock.enter(LOG)
    assert clock.stall_fraction == pytest.approx(0.4)
    assert "takes 1,667: try data.backend=ffcv, or" in advice(clock, "dali", "cuda", 400)  # nothing to bake smaller
    assert "delivers 1,000 images/s, the cuda takes 1,667: bake smaller" in advice(clock, "dali", "cuda", 500)


def test_what_is_no_step_is_no_stall_and_what_is_not_done_is_not_waited_for(gpu):
    clock = Clock(batch_size=100, gpu=True)
    gpu.at = [100, 102, 200, 900, None, None]
    steps(clock, gpu, 2, 0.1)  # from 100 to 102, and an end at 200
    clock.enter(EVALUATE)  # until the GPU is at 900
    steps(clock, gpu, 2, 0.1)  # it has not begun the second one
    assert clock.stall_fraction == pytest.approx(0.002 / 0.3)
