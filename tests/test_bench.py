"""The benchmarks at a tiny size: what they print is what their processes measured, and mistakes are told."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from plain_ffcv import KEPT

from fastgen import cli
from fastgen.bench import bake as baking
from fastgen.bench import bake_process, peer_process, peers, train_process
from fastgen.bench import train as training
from fastgen.bench.contenders import CONTENDERS, Work
from fastgen.bench.loader_process import cpu_seconds, edges, peak_bytes
from fastgen.bench.loaders import _table, prepare
from fastgen.bench.peer_process import LOOPS
from fastgen.bench.subprocesses import in_turn, measure, median_and_range, ratios
from fastgen.training.position import Position
from fastgen.training.stages import AUGMENT, EVALUATE, HOST_TO_DEVICE, LOG, STEP, WAIT, Clock, advice
from pipelines.provenance import in_words


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Six JPEG files of different sizes in two class folders."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for number in range(6):
        coarse = random.integers(0, 256, (6, 8 + number, 3), dtype=np.uint8)
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((20 * (8 + number), 120)).save(path, quality=90)
    return folder


def test_loaders_are_measured_beside_each_other(photographs, tmp_path, capsys):
    pytest.importorskip("nvidia.dali")
    names = ["fastgen dali", "DALI"]
    arguments = ["--images", str(photographs), "--samples", "48", "--batch", "8", "--size", "64", "--workers", "1"]
    arguments += ["--repeats", "1", "--only", "; ".join(names), "--output", str(tmp_path)]
    assert cli.main(["bench", "loaders", *arguments]) == 0
    document = json.loads((tmp_path / "loaders.json").read_text())
    assert set(document["measured"]) == set(names) and not document["failed"] and not document["absent"]
    for (measured,) in document["measured"].values():
        assert measured["images"] in (8 * 2, 8 * 3) and measured["images_per_second"] > 0
        assert measured["first_batch_cold_s"] > measured["first_batch_after_opening_s"] > 0
        assert measured["peak_mb"] > 50 and measured["cpu_seconds_per_1000"] >= 0
    assert {"fastgen", "torch", "timm", "pillow"} <= document["made_by"].keys()
    text = (tmp_path / "loaders.md").read_text()
    assert in_words() in text
    assert all(f"| {name} |" in text for name in names) and "fastgen bench loaders" in text
    (ours,), (raw,) = (document["measured"][name] for name in ("fastgen dali", "DALI"))
    assert f"{ours['images_per_second'] / raw['images_per_second']:.2f}" in text
    assert (tmp_path / "loaders_files" / "loaders.svg").is_file()
    assert "48 photographs" in capsys.readouterr().out


def test_on_a_gpu_the_table_says_how_many_the_cores_feed():
    """1,000 images a second at 2 ms of CPU time each keep two cores busy: 16 cores feed eight."""
    measured = dict.fromkeys(("first_batch_cold_s", "first_batch_after_opening_s", "first_batch_warm_s", "peak_mb"), 1)
    measured |= {"images_per_second": 1000, "cpu_seconds_per_1000": 2.0}
    work = Work("", {}, {}, 224, 64, 16, "cuda")
    header, (row, missing) = _table({"DALI": [measured]}, {"timm": "absent"}, work)
    assert (header[-1], row[-1]) == ("GPUs fed", "8.0") and len(header) == len(row) == len(missing)
    assert "GPUs fed" not in _table({"DALI": [measured]}, {}, replace(work, device="cpu"))[0]


def test_a_rate_is_that_of_the_middle_of_an_epoch():
    assert edges(6) == (1, 3) and edges(31) == (8, 14)
    assert all(edge + counted < batches for batches in range(2, 99) for edge, counted in [edges(batches)])
    with pytest.raises(ValueError, match="1 batches in an epoch are too few to measure: more --samples"):
        edges(1)


def test_what_a_loaders_processes_use_counts_also_once_they_have_ended():
    work = "import time\ndata = b'x' * 2**27\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    seconds, memory = cpu_seconds(), peak_bytes()
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert cpu_seconds() - seconds > 0.4
        assert peak_bytes() - memory > 2**27
        child.communicate(b"\n")
    assert cpu_seconds() - seconds > 0.4


def test_utilisation_is_the_mean_over_a_span_or_none(monkeypatch):
    told, all_told, times = iter([10, 50, 70]), threading.Event(), []

    def utilization(device):
        try:
            return next(told)
        except StopIteration:
            all_told.set()
            raise RuntimeError("as where the driver does not tell") from None
        finally:
            times.append(time.perf_counter())

    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    began = time.perf_counter()
    with train_process.utilisation() as used:
        assert all_told.wait(60)
    assert used(began, times[2]) == pytest.approx(130 / 3) and used(times[0], times[1]) == pytest.approx(50)
    assert used(times[3], times[3] + 1) is None


@pytest.mark.parametrize("name", [name for name in CONTENDERS if CONTENDERS[name].of != "small"])
def test_every_loader_gives_the_same_work(name, photographs, tmp_path_factory):
    """A batch of the asked shape, of bytes, on the device, and other crops in the next epoch."""
    import importlib.util

    for package in CONTENDERS[name].needs:
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            pytest.skip(f"{package} is not installed")
    if name.startswith(("FFCV", "fastgen ffcv")):
        pytest.importorskip("ffcv")
    work = prepare([name], tmp_path_factory.mktemp("work"), photographs, samples=12, size=32, batch=4, workers=1)
    reads = CONTENDERS[name].reads  # and no more is made
    assert (len(work.sets), len(work.shards)) == {"files": (0, 0), "set": (1, 0), "shards": (1, 1)}[reads]
    epoch = CONTENDERS[name].open(work)
    if name.startswith("FFCV"):
        KEPT.append(epoch)
    batches = [batch.clone() for batch in epoch(0)]
    assert len(batches) >= 2 and all(batch.shape == (4, 3, 32, 32) for batch in batches[:2])
    if name == "timm":  # its loader without the prefetcher normalises
        assert batches[0].is_floating_point()
    else:
        assert batches[0].dtype.itemsize == 1
    assert not any((batches[0] == batch).all() for batch in list(epoch(1))[:3])


def here(monkeypatch, command, process):
    """Let a command measure in this process, which takes a third of the time: `test_loaders_...` starts processes."""

    def measure_here(module, name, work, limit_s=None):
        assert module == process.__name__
        return json.loads(json.dumps(process.measured(name, json.loads(json.dumps(work)))))

    monkeypatch.setattr(command, "measure", measure_here)


def test_bakes_without_ffcv(photographs, tmp_path, monkeypatch):
    here(monkeypatch, baking, bake_process)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    names = ["original files", "raw, 400 pixels"]
    arguments = ["--images", str(photographs), "--samples", "9", "--workers", "1", "--repeats", "1"]
    assert cli.main(["bench", "bake", *arguments, "--only", ";".join(names), "--output", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "bake.json").read_text())
    assert set(document["measured"]) == {f"fastgen: {name}" for name in names}
    (original,), (raw,) = document["measured"].values()
    files = sorted(photographs.glob("*/*"))
    taken = [*files, *files[:3]]
    assert original["images"] == raw["images"] == 9 and original["images_per_second"] > 0
    assert original["kb_per_image"] == pytest.approx(sum(path.stat().st_size for path in taken) / 9e3)
    sizes = [Image.open(path).size for path in taken]  # all fit
    assert raw["kb_per_image"] == pytest.approx(sum(3 * width * height for width, height in sizes) / 9e3)
    assert "absent: ffcv is not installed" in (tmp_path / "bake.md").read_text()


def test_bakes_beside_ffcv(photographs, tmp_path, monkeypatch):
    pytest.importorskip("ffcv")
    here(monkeypatch, baking, bake_process)
    measure_here = baking.measure

    def measure_quickly(module, name, work, limit_s):
        if name == "FFCV":  # it forks
            return measure(module, name, work, limit_s)
        # With a loader for which nothing is compiled.
        return measure_here(module, name, {**work, "loader": "fastgen resident"})

    monkeypatch.setattr(baking, "measure", measure_quickly)
    name = "JPEG 90, 256 pixels"
    arguments = ["--images", str(photographs), "--samples", "70", "--workers", "1", "--repeats", "1", "--only", name]
    assert cli.main(["bench", "bake", *arguments, "--output", str(tmp_path)]) == 0
    (ours,), (other,) = json.loads((tmp_path / "bake.json").read_text())["measured"].values()
    assert ours["images"] == other["images"] == 70 and ours["streamed_images_per_second"] > 0
    assert f"{ours['images_per_second'] / other['images_per_second']:.2f} x" in (tmp_path / "bake.md").read_text()


def test_training_beside_its_limits(tmp_path, monkeypatch):
    here(monkeypatch, training, train_process)
    arguments = ["recipe=quickstart", "--steps", "3", "--repeats", "1", "--output", str(tmp_path)]
    assert cli.main(["bench", "train", *arguments]) == 0
    found = json.loads((tmp_path / "train.json").read_text())["measured"]
    whole, limit, data = (found[f"quickstart: {side}"][0] for side in ("training", "compute", "loader"))
    assert whole["images_per_second"] > 0 and data["images_per_second"] > 0 and whole["advice"]
    # 64 pixels, three layers of 512 units, 10 classes: two operations forward and four backward for each weight, but
    # for the first layer, whose inputs need no gradient.
    assert limit["gflop_per_image"] == pytest.approx((4 * 64 * 512 + 6 * (2 * 512 * 512 + 512 * 10)) / 1e9)
    assert limit["share_of_peak"] > 0


def test_peers(data_folder, tmp_path, monkeypatch):
    here(monkeypatch, peers, peer_process)
    loops = ["fastgen", "bare loop over floats prepared beforehand"]
    arguments = ["--steps", "5", "--repeats", "1", "--only", ";".join(loops), "--output", str(tmp_path)]
    assert cli.main(["bench", "peers", *arguments]) == 0
    found = json.loads((tmp_path / "peers.json").read_text())["measured"]
    assert set(found) == set(loops)
    ours, bare = (found[loop][0]["images_per_second"] for loop in loops)
    assert f"{ours / bare:.2f}" in (tmp_path / "peers.md").read_text()


@pytest.mark.parametrize("loop", [loop for loop in LOOPS if loop != "fastgen"])
def test_every_loop_trains(loop, data_folder, monkeypatch):
    steps = []
    step = peer_process._step("fp32")
    monkeypatch.setattr(peer_process, "_step", lambda precision: lambda *batch: steps.append(batch) or step(*batch))
    monkeypatch.setattr(peer_process, "_WARM_UP", 1)
    assert LOOPS[loop](2, "fp32") > 0
    assert len(steps) == 3
    for images, labels in steps:
        images = images.reshape(128, -1)
        assert images.shape == (128, 2352) and labels.shape == (128,)
        # Whitened, each image for itself.
        assert torch.allclose(images.mean(1), torch.zeros(128), atol=1e-4)
        assert torch.allclose(images.square().mean(1), torch.ones(128), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["loader"], "Did you mean 'loaders'?"),
        (["loaders", "--only", "FFVC"], "did you mean 'FFCV'"),
        (["loaders", "--images", "nowhere"], "nowhere has no class folders with JPEG files"),
        (["bake", "--images", "nowhere"], "nowhere has no class folders with JPEG files"),
        (["bake", "--only", "raw, 255 pixels"], "did you mean 'raw, 256 pixels'"),
        (["loaders", "--repeats", "0"], "Invalid value for '--repeats'"),
        (["peers", "--precision", "fp8"], "'fp8' is not one of 'fp32', 'bf16'"),
        (["peers", "seed=1"], "unexpected extra argument(s) (seed=1)"),
        (["train", "recipe=quickstart", "optim.lrr=1"], "did you mean 'optim.lr'"),
    ],
)
def test_mistakes_are_told(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_process_that_fails_is_named_and_the_others_go_on():
    def run(name):
        if name == "bad":
            return measure("no_such_module", "bad", {})
        return {"rate": len(name)}

    found, failed = in_turn(["good", "bad", "fine!"], 2, run)
    assert list(found) == ["good", "fine!"] and list(failed) == ["bad"] and "no_such_module" in failed["bad"]
    with pytest.raises(RuntimeError, match="no end after 0 s"):
        measure("no_such_module", "bad", {}, limit_s=0)
    assert ratios(found["good"], found["fine!"], "rate") == [0.8, 0.8]
    assert median_and_range([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"
    assert median_and_range([5.0]) == "5" and median_and_range([]) == "-"


# ---------------------------------------------------------------- where the time of a training goes


def clock(**seconds):
    clock = Clock(batch_size=1000)
    for step in (1, 2):
        clock.step(Position(steps_per_epoch=10, step=step))
    clock.seconds.update(seconds)
    return clock


def test_each_moment_belongs_to_one_stage(monkeypatch):
    now = iter([3.0, 4.0, 10.0, 11.0, 13.0, 13.5, 20.0, 21.0])
    monkeypatch.setattr("fastgen.training.stages.time.perf_counter", lambda: next(now))
    clock = Clock(batch_size=6)
    clock.enter(STEP)  # at 3
    clock.step(Position(steps_per_epoch=10, step=1))  # at 4: until here it compiled
    assert clock.fractions == {} and clock.images_per_second == clock.stall_fraction == 0
    clock.enter(WAIT)  # at 10, after 6 seconds of the first stage
    clock.enter(STEP)
    clock.step(Position(steps_per_epoch=10, step=2))
    clock.enter(EVALUATE)
    clock.enter(None)
    clock.enter(STEP)  # at 20: what passed belongs to nothing
    clock.enter(None)
    assert clock.seconds[WAIT] == 1 and clock.seconds[STEP] == 9 and clock.seconds[EVALUATE] == 0.5
    assert clock.images_per_second == 0.6 and clock.stall_fraction == 0.1  # in ten seconds, evaluation left out
    clock.move(0.25, WAIT, HOST_TO_DEVICE)
    assert clock.seconds[WAIT] == 0.75 and clock.seconds[HOST_TO_DEVICE] == 0.25
    assert clock.stall_fraction == 0.1 and sum(clock.fractions.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("seconds", "backend", "device", "said"),
    [
        ({WAIT: 6.0, STEP: 4.0}, "ffcv", "cuda", "delivers 100 images/s, the cuda takes 250: bake smaller"),
        ({WAIT: 6.0, STEP: 3.0, LOG: 2.0}, "dali", "cuda", "takes 200: bake smaller .*data.backend=ffcv"),
        ({WAIT: 6.0, STEP: 4.0}, "resident", "cpu", "data.backend=ffcv or dali"),
        ({STEP: 10.0, EVALUATE: 10.0}, "resident", "cpu", "50 % of the time .*train.evaluate_epochs"),
        ({STEP: 1.0, EVALUATE: 1.0}, "resident", "cpu", "the cpu is the limit"),
        ({STEP: 4.0, AUGMENT: 6.0}, "resident", "cpu", "augmentation takes longer"),
        ({STEP: 10.0, WAIT: 0.1}, "resident", "cuda", "the cuda is the limit at 99 images/s"),
        ({STEP: 9.0, HOST_TO_DEVICE: 1.0}, "ffcv", "cuda", "copying .* takes 10 % .*data.backend=dali"),
        ({}, "resident", "cpu", "too short"),
    ],
)
def test_the_advice_names_the_bottleneck(seconds, backend, device, said):
    import re

    assert re.search(said, advice(clock(**seconds), backend, device, 500))
