"""A recipe for a set of one's own: what fits its images and the machine, and why, as a commented YAML file."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from fastgen.owndata.look import Look
from pipelines.backends import BACKENDS
from pipelines.errors import UserError
from pipelines.provenance import made_by

HOLDOUT = 0.1
_CPU_SIDE, _GPU_SIDE = 64, 224  # pixels: larger images are reduced to this
_SHOWN = 0.875  # of a photograph's shorter side, on a GPU
_CPU_SECONDS = 120  # that a training on a CPU should take: true and random labels, and what was learned, in ten minutes
# Largest side in pixels -> network on a CPU and on a GPU, and images that one core trains on in a second, about.
_NETWORKS = (
    (23, "fastgen_mlp_3x512", "fastgen_mlp_3x512", 4000),
    (47, "fastgen_alexnet", "fastgen_inception", 400),
    (95, "regnetx_002", "resnet18", 150),
    (_GPU_SIDE, "regnetx_002", "resnet50", 30),
)
_RATES = {"fastgen_alexnet": 0.01, "fastgen_inception": 0.1}  # of learning; of others 0.05
_STEPS = 500  # of the optimizer, at least: a small set has more epochs


@dataclass
class Choice:
    """What fits. side: of the network's input in pixels. square: side of the square that a bake makes of every image
    (None: they are baked as they are, or streamed). streamed: whether images are stored as JPEG and resized as they are
    shown. images, machine, length: why, in words."""

    side: int
    square: int | None
    streamed: bool
    backend: str
    network: str
    lr: float
    batch: int
    epochs: int
    holdout: bool
    images: str
    machine: str
    length: str


def choose(seen: Look, gpu: bool, cores: int) -> Choice:
    """Raises UserError where no image can be decoded."""
    train = seen.splits["train"]
    sides = np.concatenate([np.stack([each.width, each.height], 1) for each in seen.seen.values()])
    sides = sides[sides[:, 0] > 0]
    if not len(sides):
        raise UserError(f"{seen.root}: none of its images can be decoded, the first is {seen.broken[0]}")
    shorter = int(np.median(sides.min(1)))
    most = _GPU_SIDE if gpu else _CPU_SIDE
    as_baked = bool((sides == sides[0, 0]).all()) and shorter <= most
    side = shorter if as_baked else max(8, min(most, shorter) // 8 * 8)
    streamed = gpu and not as_baked and side > 64
    _, on_cpu, on_gpu, speed = next(row for row in _NETWORKS if side <= row[0])
    network = on_gpu if gpu else on_cpu
    can_hold_out = "val" not in seen.splits and not (seen.counts == 1).any()
    samples = len(train) - round(HOLDOUT * len(train)) * can_hold_out
    batch = int(2 ** np.clip(np.log2(max(1, samples / 16)) // 1, 2, 8 if gpu else 7))
    batch = max(1, min(batch, samples))
    affordable = 100 if gpu else _CPU_SECONDS * speed * cores // samples
    needed = -(-_STEPS * batch // samples)
    epochs = int(np.clip(affordable, min(100, max(5, needed)), 100))
    minutes = max(1, round(epochs * samples / (speed * cores) / 60))
    return Choice(
        side=side,
        square=None if as_baked or streamed else side,
        streamed=streamed,
        backend=_backend(len(train) * side * side * 3, streamed),
        network=network,
        lr=_RATES.get(network, 0.05),
        batch=batch,
        epochs=epochs,
        holdout=can_hold_out,
        images=f"{'squares' if as_baked else 'whose shorter side is typically'} {shorter} pixels wide",
        machine="a GPU" if gpu else f"{cores} cores and no GPU",
        length="as many as random labels usually take"
        if gpu
        else f"about {minutes:,} minute{'s' * (minutes > 1)}, evaluations aside",
    )


def _backend(pixels: int, streamed: bool) -> str:
    """resident where the whole set fits into a quarter of the memory, else what is installed."""
    if not streamed and pixels < psutil.virtual_memory().total / 4:
        return "resident"
    installed = made_by(*(backend.distribution for backend in BACKENDS.values() if backend.distribution))
    return next((name for name, backend in BACKENDS.items() if backend.distribution in installed), "resident")


def recipe_text(seen: Look, choice: Choice, output: Path) -> str:
    """The recipe as a file. Raises UserError for a path that no text file can hold."""
    root = os.path.abspath(seen.root)
    if not root.isprintable() or "${" in root:
        raise UserError(f"{seen.root!r}: no recipe can name this path; give the folder a plainer name")
    train, name = seen.splits["train"], output.name
    lines = [
        f"# {len(train):,} images in {train.num_classes:,} classes, {choice.images}.",
        "#",
        f"# Command:  fastgen train recipe={name}                              (the labels as they are)",
        f"#           fastgen train recipe={name} data.labels.kind=random      (every label drawn anew)",
        f"#           fastgen train recipe={name} data.labels.kind=symmetric data.labels.p=0.2   (a fifth is wrong)",
        f"# Hardware: {choice.machine}: what follows was chosen for it by `fastgen init`",
        "# Expect:   on random labels chance on the test split, whatever the training accuracy; on the true ones more",
        "",
        "data:",
        f"  source: {seen.source}",
        f"  root: {json.dumps(root, ensure_ascii=False)}",
        *_test_split(seen, choice),
        f"  backend: {choice.backend}",
        *_images(choice),
        f"  batch_size: {choice.batch}",
        "  normalize: {kind: whiten}  # each image to mean 0 and deviation 1",
        "  labels: {kind: true}  # true, random, symmetric, pair, table, ...: `fastgen keys data.labels`",
        "  # augment: {flip: true}  # mirror images at random: better on true labels, where left and right are alike",
        *_bake(choice),
        "model:",
        f"  name: {choice.network}  # any of timm's: timm.list_models()",
        f"optim: {{name: sgd, lr: {choice.lr:g}, momentum: 0.9}}",
        "schedule: {kind: cosine}",
        "train:",
        f"  epochs: {choice.epochs}  # {choice.length}",
        f"  evaluate_epochs: {max(1, choice.epochs // 20)}",
        "  dynamics: true  # records how each sample is learned, for `fastgen suspects` and `fastgen dynamics`",
    ]
    return "\n".join(lines) + "\n"


def _test_split(seen: Look, choice: Choice) -> Iterable[str]:
    if seen.no_test is not None:
        yield f"  # its own test split is not read: {seen.no_test}"
    if "val" in seen.splits:
        yield f"  # the test split is its own: {len(seen.splits['val']):,} images"
        yield f"  # holdout: {HOLDOUT}  # a part of each class's training images in its place"
    elif choice.holdout:
        yield f"  holdout: {HOLDOUT}  # this part of each class's images is the test split: there is no other"
    else:
        yield "  # no test split: some classes have a single image, of which none can be held out"
        yield from ["  split_test: none"] if seen.no_test is not None else []


def _images(choice: Choice) -> Iterable[str]:
    if choice.streamed:
        yield f"  image_size: {choice.side}  # pixels, side of the network's input"
        yield f"  view: {{fraction: {_SHOWN}}}  # the central square of this part of the shorter side, resized"
        yield f"  # view: {{fraction: {_SHOWN}, random: area}}  # and random crops in training, for the true labels"


def _bake(choice: Choice) -> Iterable[str]:
    if choice.streamed:
        yield "bake: {encoding: jpeg, resolution: 400}  # longest side in pixels: decodes fast, and is sharp enough"
    elif choice.square is not None:
        encoding = "raw" if choice.backend == "resident" else "jpeg"
        yield "# the central square, resized"
        yield f"bake: {{square: true, resolution: {choice.square}, encoding: {encoding}}}"
