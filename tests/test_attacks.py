"""A short form of each attack of `make torture`, and the harness itself: it finds what it should find."""

import faulthandler
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from torture.forks import HANG, KILLED, OK, REFUSED, TRACEBACK, Child
from torture.trees import difference, tree
from whole_runs import ROOT

from pipelines.errors import UserError

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="dying.c is compiled with gcc")


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (lambda: None, OK),
        (lambda: fail(UserError("named")), REFUSED),
        (lambda: fail(SystemExit(2)), REFUSED),
        (lambda: fail(KeyError("x")), TRACEBACK),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), KILLED),
        (lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)), TRACEBACK),
        (signal.pause, HANG),
    ],
)
def test_how_a_child_ends(work, kind, tmp_path):
    assert Child(work, tmp_path / "log").wait(seconds=5 if kind == HANG else 60).kind == kind


def test_trees_differ_by_content_and_names_but_not_by_times(tmp_path):
    for name, seconds in (("a", 1), ("b", 2)):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "metrics.jsonl").write_text(f'{{"step": 1, "wall_seconds": {seconds}}}\n')
        (tmp_path / name / "run" / "x.bin").write_bytes(b"same")
    assert difference(tree(tmp_path / "a"), tree(tmp_path / "b")) == ""
    (tmp_path / "b" / "run" / "metrics.jsonl").write_text('{"step": 2, "wall_seconds": 2}\n')
    (tmp_path / "b" / "run" / "y").touch()
    (tmp_path / "b" / "run" / "x.bin").unlink()
    said = difference(tree(tmp_path / "a"), tree(tmp_path / "b"))
    assert said == "missing: run/x.bin; left over: run/y; different: run/metrics.jsonl"


@needs_compiler
def test_a_short_torture_finds_no_fault():
    command = [sys.executable, "tests/torture", "--seed", "1", "--jobs", "2"]
    command += ["--crash-points", "4", "--kills", "3", "--mutations", "40", "--soak", "4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    tried = {name.strip(): int(number) for name, number in re.findall(r"^(\w[\w ]+?) +(\d+) +0  ", done.stdout, re.M)}
    assert tried == {"kills": 3, "soak": 3, "crash points": 4, "mutations": tried["mutations"]}
    assert tried["mutations"] >= 37
