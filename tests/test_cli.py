"""The commands as a user runs them: bake, verify, inspect, doctor, quickstart."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastgen import cli
from pipelines.sources import SOURCES

SYNTHETIC = ["recipe=quickstart", "data.source=synthetic", "data.synthetic.size=8"]


def baked_path(capsys) -> Path:
    return Path(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("/")))


def test_bake_verify_and_damage(capsys):
    assert cli.main(["bake", *SYNTHETIC, "data.synthetic.samples=99"]) == 0
    out = capsys.readouterr().out
    assert "99" in out and "random_1_s0" in out and "label_true" in out
    assert cli.main(["bake", *SYNTHETIC, "data.synthetic.samples=99"]) == 0
    path = baked_path(capsys)
    assert cli.main(["verify", str(path)]) == 0
    assert "match the manifest" in capsys.readouterr().out
    content = bytearray((path / "val.beton").read_bytes())
    content[len(content) // 2 + 4_000_000] ^= 1
    (path / "val.beton").write_bytes(content)
    assert cli.main(["verify", str(path)]) == 2
    error = capsys.readouterr().err
    assert "val.beton" in error and "delete" in error and error.count("\n") == 1
    # And a run refuses it as well.
    assert cli.main(["train", *SYNTHETIC, "data.synthetic.samples=99"]) == 2


def test_inspect_draws_samples(capsys, tmp_path):
    out = tmp_path / "sheet.png"
    assert cli.main(["inspect", "recipe=quickstart", "--images", str(out)]) == 0
    text = capsys.readouterr().out
    assert "digits" in text and re.search(r"random_1_s0 .*8\d\.\d\d %|random_1_s0 .*9\d\.\d\d %", text)
    with Image.open(out) as image:
        assert image.width > 500 and len(image.getcolors(100_000)) > 10
    assert cli.main(["inspect", "recipe=quickstart", "--images"]) == 2


def test_a_folder_that_is_no_baked_set(capsys, tmp_path):
    assert cli.main(["verify", str(tmp_path)]) == 2
    assert "is no baked set" in capsys.readouterr().err


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("torch", "ffcv", "cores", "cifar10", "GB free"))


@pytest.mark.parametrize("source", [name for name in SOURCES if name not in ("digits", "synthetic")])
def test_missing_data_is_one_line(source, capsys, tmp_path):
    assert cli.main(["bake", "recipe=quickstart", f"data.source={source}", f"data.root={tmp_path / 'nowhere'}"]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error and error.count("\n") == 1


def test_quickstart_shows_what_it_promises(tmp_path):
    """100 % on both labellings; above 95 % and chance on the test set."""
    done = subprocess.run(
        [sys.executable, "-m", "fastgen.quickstart"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    summaries = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/summary.json")}
    assert summaries["true"]["train_top1"] == summaries["random"]["train_top1"] == 100
    assert summaries["true"]["test_top1"] > 95 and 5 <= summaries["random"]["test_top1"] <= 15
    for summary in summaries.values():
        assert f"{summary['test_top1']:.1f} %" in done.stdout
