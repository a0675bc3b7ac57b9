"""Signals to launchers, and a machine that is lost."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from whole_runs import ROOT, SMALL, fresh_accelerate  # noqa: F401

from fastgen.recipe.load import load
from fastgen.training import checkpoints
from fastgen.training.loop import train

TRAIN = ROOT / "fastgen" / "train.py"


@pytest.mark.parametrize(
    "processes, number", [(1, signal.SIGTERM), (2, signal.SIGTERM), (1, signal.SIGINT), (1, signal.SIGHUP)]
)
def test_a_signal_to_the_launcher_leaves_a_checkpoint(tmp_path, processes, number):
    """SIGTERM to the launcher alone, as a cluster sends it; Ctrl-C and SIGHUP to the whole group, as a terminal."""
    folder = tmp_path / "run"
    config = ROOT / "recipes" / "accelerate" / f"cpu_{processes}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--main_process_port", "0"] if processes > 1 else []
    command += [str(TRAIN), "recipe=quickstart", "train.stop_at_interpolation=false"]
    command += ["train.epochs=100000", "track.log_steps=5", f"run.dir={folder}"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        if number in (signal.SIGINT, signal.SIGHUP):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        while checkpoints.latest(folder / "checkpoints") is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    found = checkpoints.latest(folder / "checkpoints")
    step = json.loads((found / "position.json").read_text())["step"]
    assert found.name == f"step_{step:08d}" and step > 0


@pytest.mark.parametrize(
    "processes, number, code",
    [(0, signal.SIGTERM, 143), (0, signal.SIGINT, 130), (1, signal.SIGTERM, None), (2, signal.SIGTERM, None)],
)
def test_a_signal_before_the_first_step_ends_with_one_line_and_leaves_no_run(tmp_path, processes, number, code):
    """In the middle of a bake. processes: 0 for a command without a launcher."""
    mine = tmp_path / "mine"
    mine.mkdir()
    command = [sys.executable, "-m", "fastgen", "train"]
    if processes:
        config = ROOT / "recipes" / "accelerate" / f"cpu_{processes}.yaml"
        port = ["--main_process_port", "0"] if processes > 1 else []
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *port, str(TRAIN)]
    command += ["recipe=quickstart", "data.source=synthetic", "data.synthetic.samples=2000000", f"run.dir={mine}"]
    process = subprocess.Popen(
        command, env=os.environ | {"FASTGEN_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}, text=True,
        cwd=tmp_path, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("baking synthetic into")
        assert (mine / ".lock").exists()
        process.send_signal(number)
        _, said = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    word = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert [line for line in said.splitlines() if line.startswith("fastgen")] == [f"fastgen: {word}"]
    assert processes or (process.returncode, said) == (code, f"fastgen: {word}\n")
    deadline = time.monotonic() + 60
    while list(mine.iterdir()):  # accelerate's launcher for one process does not wait for it
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "mine"]


def start_machine(rank: int, port: int, *settings: str) -> subprocess.Popen:
    """One of two machines, as its user starts it."""
    config = ROOT / "recipes" / "accelerate" / "cpu_2.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    return subprocess.Popen(
        [*command, str(TRAIN), "recipe=quickstart", *settings],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def switch_off(machine: subprocess.Popen) -> None:
    """End the launcher and all that it started; its worker has a session of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher = psutil.Process(machine.pid)
        for process in [*launcher.children(recursive=True), launcher]:
            process.kill()


def test_a_process_whose_others_do_not_start_says_so(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [
        sys.executable,
        str(TRAIN),
        "recipe=quickstart",
        "train.startup_minutes=0.02",
        f"run.dir={tmp_path / 'r'}",
    ]
    done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if line.startswith("fastgen:")]
    assert done.returncode == 1 and "Traceback" not in done.stderr and len(said) == 1
    assert f"process 0 of 2 met not all others at 127.0.0.1:{port} within train.startup_minutes=0.02" in said[0]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = subprocess.run(command, env=os.environ | alone, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "another program listens on" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_lost_machine_is_noticed_and_the_run_goes_on_without_it(tmp_path):
    folder = tmp_path / "run"
    settings = [
        *SMALL,
        "schedule.kind=constant",
        "train.epochs=100000",
        f"run.dir={folder}",
        "run.checkpoint_minutes=0.001",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [start_machine(rank, port, *settings) for rank in range(2)]
    try:
        deadline = time.monotonic() + 300
        while checkpoints.latest(folder / "checkpoints") is None:
            assert all(machine.poll() is None for machine in machines) and time.monotonic() < deadline
            time.sleep(0.05)
        switch_off(machines[1])
        _, said = machines[0].communicate(timeout=60)
    finally:
        for machine in machines:
            switch_off(machine)
    assert machines[0].returncode == 1
    assert "fastgen: process 0 of 2 lost another one" in said and f"run.resume=true run.dir={folder}" in said
    before = json.loads((checkpoints.latest(folder / "checkpoints") / "position.json").read_text())
    assert before["world_size"] == 2
    steps = before["step"] + 2
    resumed = train(load("quickstart", [*settings, "run.resume=true", f"train.max_steps={steps}"]))
    assert (resumed.steps, resumed.processes) == (steps, 1)
