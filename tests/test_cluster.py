"""Sweeps on a cluster: submitit's own processes here, and a real SLURM where its daemons are installed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from whole_runs import ROOT

from fastgen import cli
from fastgen.runs.metrics import read_metrics
from fastgen.sweeps.grid import Grid

LONG = [
    "recipe=quickstart", "data.limit=64", "data.limit_test=22", "data.batch_size=32", "model.name=fastgen_mlp_1x512",
    "train.epochs=100000", "train.evaluate_epochs=100000", "train.stop_at_interpolation=false", "track.log_steps=1",
    "train.max_steps=1000", "train.threads=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm", "partition=gpu"], "--slurm is for --on slurm"),
        (["--on", "slrum"], "'slrum' is not one of 'local', 'slurm', 'submitit'"),
        (["--on", "slurm", "--slurm", "time=1:00:00"], "time=1:00:00 must be a whole number of minutes"),
        (["--on", "slurm", "--slurm", "time"], "time=True must be a whole number of minutes"),
        (["--on", "slurm", "--slurm", "time=0"], "must be at least 1"),
        (["--on", "submitit", "--slurm", "partition=gpu"], "it knows time=MINUTES alone"),
        (["--on", "slurm"], "there is no sbatch on this machine"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, message, tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["sweep", "recipe=quickstart", "seed=0,1", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_submitit_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(["sweep", "recipe=quickstart", "seed=0,1", "--on", "slurm"]) == 2
    assert "pip install 'fastgen[slurm]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_on_submitit_survives_its_end_and_that_of_a_jobs_time(tmp_path):
    pytest.importorskip("submitit")
    root = tmp_path / "sweep"
    settings = [*LONG, "optim.lr=0.05,1e30"]
    long, diverging = (root / point.folder_name for point in Grid.parse(settings).points)
    command = [sys.executable, "-m", "fastgen.cli", "sweep", *settings, "--on", "submitit", "--output", str(root)]
    command += ["--jobs", "2"]

    def steps() -> list[int]:
        return [line["step"] for line in read_metrics(long) if "learning_rate" in line] if long.is_dir() else []

    sweep = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(steps()) < 20:
        assert sweep.poll() is None
        time.sleep(0.05)
    jobs = json.loads((root / "logs" / "submitit" / "jobs.json").read_text())
    (task,) = psutil.Process(int(jobs[long.name])).children()
    task.send_signal(signal.SIGUSR2)  # as at the end of its time
    sweep.terminate()
    _, said = sweep.communicate()
    assert sweep.returncode == 128 + signal.SIGTERM and "trainings go on without this process" in said

    sweep = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert sweep.returncode == 1 and "1 of 2 points done" in sweep.stdout and "diverged" in sweep.stderr
    assert steps() == list(range(1, 1001))  # no step is missing, none was logged twice
    log = (root / "logs" / f"{long.name}.txt").read_text()
    assert log.count("quickstart in ") == 2 and "interrupted after" in log  # the second sweep began none anew
    assert json.loads((long / "summary.json").read_text())["status"] == "finished"
    assert not (diverging / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.skipif("FASTGEN_SLURM" not in os.environ, reason="takes minutes of a quiet machine: FASTGEN_SLURM=1")
def test_on_a_real_slurm():
    """See the script: nodes that die, signals, jobs that are queued again."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name, path=_sbin())]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurm-wlm and munge (missing: {', '.join(missing) or 'root'})")
    pytest.importorskip("submitit")
    done = subprocess.run([ROOT / "scripts" / "try_slurm.sh"], capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0 and "all as it should be" in done.stdout, done.stdout + done.stderr


def _sbin() -> str:
    return os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
