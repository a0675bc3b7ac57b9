"""Short runs whose losses and weights are written down in golden.json: a change of the code must not change them.

    python tests/golden_runs.py     trains them anew and writes golden.json, after a change that is meant to change them

On a processor and a PyTorch like those that golden.json names, every bit is compared; elsewhere rounding differs, and
losses and the norms of weights are compared to a part in a thousand.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).with_name("golden.json")
_SMALL = [
    "data.source=synthetic", "data.synthetic.samples=100", "data.synthetic.test_samples=30", "data.synthetic.size=12",
    "data.image_size=10", "data.batch_size=30", "data.augment.random_crop=true", "data.augment.flip=true",
    "schedule.kind=exponential", "train.epochs=4", "track.log_steps=1", "train.threads=1", "train.precision=fp32",
    "train.stop_at_interpolation=false",
]  # fmt: skip
_LIKE_IMAGENET = [
    "model.name=resnet10t", "data.augment.random_crop=false", "data.view.fraction=0.9", "data.view.random=tensorflow",
    "data.image_size=64", "data.progressive.start_size=32", "data.progressive.start_epoch=1",
    "data.progressive.end_epoch=3", "train.epochs=3", "train.ema=0.9", "train.label_smoothing=0.1",
    "optim.name=rmsprop", "optim.lr=0.01", "optim.clip=1.0", "optim.decay_on=weights", "optim.weight_decay=0.01",
]  # fmt: skip
# name -> number of processes, settings of the recipe `quickstart`
RUNS: dict[str, tuple[int, list[str]]] = {
    "dropout": (1, [*_SMALL, "model.dropout=0.3"]),
    "two processes": (2, _SMALL),
    "partial": (1, [*_SMALL, "data.labels.kind=partial", "data.labels.p=0.4", "train.accumulate=3"]),
    "inception": (1, [*_SMALL, "model.name=fastgen_inception", "train.epochs=1", "optim.name=adamw", "optim.lr=0.001"]),
    "like ImageNet's": (1, [*_SMALL, *_LIKE_IMAGENET]),
    "to interpolation": (1, ["data.limit=200", "train.checks_per_epoch=3", "train.threads=1", "train.precision=fp32"]),
}


def machine() -> dict[str, str]:
    """What decides how sums are rounded."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"processor": model, "vectors": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def told(folder: Path) -> dict:
    """What a run directory says of its training: losses and evaluations by step, and its last weights."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = {
        key: {str(line["step"]): line[key] for line in lines if line.get(key) is not None}
        for key in ("train_running_loss_nats", "train_loss_nats", "test_loss_nats")
    }
    last = sorted((folder / "checkpoints").glob("step_*"))[-1]
    weights, digest = load_file(last / "model.safetensors"), hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    norms = {name: values.double().norm().item() for name, values in weights.items()}
    return {"last": last.name, **measured, "norms": norms, "weights_sha256": digest.hexdigest()}


def command(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "fastgen.cli", "train"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    return [*launch, "--config_file", str(ROOT / f"recipes/accelerate/cpu_{processes}.yaml"), "fastgen/train.py"]


def main() -> None:
    runs = {}
    with tempfile.TemporaryDirectory() as name:
        environment = os.environ | {"FASTGEN_CACHE": f"{name}/cache"}
        for number, (run, (processes, settings)) in enumerate(RUNS.items()):
            arguments = ["recipe=quickstart", *settings, f"run.dir={name}/{number}"]
            subprocess.run([*command(processes), *arguments], check=True, env=environment)
            runs[run] = told(Path(name) / str(number))
    GOLDEN.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
