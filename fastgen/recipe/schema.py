"""The typed schema of a recipe, its defaults and its dotted keys."""

import dataclasses
import os
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import yaml

from fastgen.optim.optimizers import OptimSpec
from fastgen.optim.schedules import ScheduleSpec
from pipelines.backends import DaliSpec
from pipelines.baked.encoding import BakeSpec
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.sampler import SubsetSpec
from pipelines.sources import SourceSpec
from pipelines.view.preparation import AugmentSpec, NormalizeSpec
from pipelines.view.regions import ViewSpec

EVALUATE = ("always", "end", "never")  # what train.evaluate can be
TRACKING = ("online", "offline", "off")  # what track.wandb can be; the last tells others least


@dataclass
class ProgressiveSpec:
    """Smaller inputs early on (data.progressive.*), as FFCV's ImageNet recipes train.

    The side grows linearly from start_size pixels in start_epoch to data.image_size in end_epoch, in steps of 32.
    """

    start_size: int | None = None  # None: the same size throughout
    start_epoch: int = 0  # the first epoch, from 0, with larger images
    end_epoch: int = 0  # the first epoch, from 0, with the full size

    def size(self, epoch: int, full: int) -> int:
        """Side of the input in pixels."""
        if self.start_size is None or epoch >= self.end_epoch:
            return full
        passed = max(0, epoch - self.start_epoch) / (self.end_epoch - self.start_epoch)
        return min(full, max(1, int((self.start_size + passed * (full - self.start_size)) / 32 + 0.5)) * 32)

    def sizes(self, full: int) -> list[int]:
        """All sides that `size` can give, growing."""
        return [*range(self.size(0, full), full, 32), full]


@dataclass
class DataSpec(SourceSpec):
    """Which samples, how they are corrupted, streamed and prepared (data.*)."""

    backend: str = "resident"  # what streams the batches: resident (the set on the device), ffcv, dali
    image_size: int | None = None  # pixels, side of the network's input (None: as baked)
    eval_size: int | None = None  # pixels, the same for evaluation (None: image_size)
    batch_size: int = 128  # global: over all processes and accumulation steps
    eval_batch_size: int | None = None  # global (None: four times batch_size)
    workers: int | None = None  # loader threads of a process (None: its share of the cores)
    stage: str | None = None  # a folder on each machine's own disk to copy the baked set to
    shards: str | None = None  # a folder that `fastgen export` wrote, to stream instead of baking (backend dali)
    subset: SubsetSpec = field(default_factory=SubsetSpec)
    labels: LabelSpec = field(default_factory=LabelSpec)
    pixels: PixelSpec = field(default_factory=PixelSpec)
    dali: DaliSpec = field(default_factory=DaliSpec)
    view: ViewSpec = field(default_factory=ViewSpec)
    progressive: ProgressiveSpec = field(default_factory=ProgressiveSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    normalize: NormalizeSpec = field(default_factory=NormalizeSpec)

    @property
    def source_spec(self) -> SourceSpec:
        return SourceSpec(**{f.name: getattr(self, f.name) for f in fields(SourceSpec)})


@dataclass
class ModelSpec:
    """Any name that timm.create_model knows (model.*); `import fastgen` adds the paper's."""

    name: str = "fastgen_mlp_1x512"  # the network
    dropout: float = 0.0  # probability of dropping a unit before the classifier
    options: dict[str, Any] = field(default_factory=dict)  # further keyword arguments of timm.create_model


@dataclass
class TrainSpec:
    """The training loop (train.*)."""

    epochs: int = 100  # passes over the training set
    max_steps: int | None = None  # optimizer steps: the run ends there, if before its last epoch
    stop_at_interpolation: bool = False  # end when the training set is fitted
    fitted_at: float = 100.0  # percent of the training set: from this accuracy on it counts as fitted
    evaluate: str = "always"  # always: during training and at its end; end: only there; never (or false)
    evaluate_epochs: int = 1  # evaluate every this many epochs
    evaluate_train_epochs: int | None = None  # the training set, too, only every this many (None: each time)
    checks_per_epoch: int = 1  # with stop_at_interpolation, looks whether all is fitted, in an epoch once nearly all is
    precision: str = "auto"  # auto: bf16 on a GPU that has it, else fp32. With fp16, steps of rmsprop wait for it
    compile: bool | None = None  # torch.compile (None: on a GPU)
    cuda_graphs: str = "auto"  # auto: a step is one launch where that can be (on: or the run is refused), off
    channels_last: bool | None = None  # memory format of convolutions (None: on)
    accumulate: int = 1  # micro-batches per optimizer step
    label_smoothing: float = 0.0  # part of a label's probability that all classes share
    mixup: float = 0.0  # alpha of mixup: each image is blended with another of its batch, and their labels (0: off)
    cutmix: float = 0.0  # alpha of CutMix: a patch of each image is another's; with mixup, half of the batches (0: off)
    aux_weight: float = 0.0  # of an auxiliary classifier's loss (model.options.aux_logits=true)
    ema: float = 0.0  # decay of a moving average of the weights, which evaluations then use (0: none)
    dynamics: bool = False  # record every training sample in every epoch, into RUN_DIR/dynamics
    predictions: bool = False  # write what the trained network says of every sample, RUN_DIR/predictions.parquet
    threads: int | None = None  # CPU threads of a process (None: its share of the cores)
    startup_minutes: float = 1.0  # in which all processes of a run must have started
    timeout_minutes: float = 10.0  # a process that others wait for longer is taken for lost

    @property
    def mixes(self) -> bool:
        """Whether what the network is trained on are mixtures of two images."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class RunSpec:
    """Where the run lives, and how it continues (run.*)."""

    dir: str | None = None  # None: runs/NAME-NNN below FASTGEN_OUTPUT or ./fastgen_out, a new number for each run
    name: str | None = None  # None: the recipe's, and what was set otherwise on the command line
    resume: bool = False  # continue from the last checkpoint in run.dir (None: in the newest folder of that name)
    checkpoint_minutes: float = 5.0  # between checkpoints; the first comes after half a minute, the last at the end
    keep_checkpoints: int = 2  # the latest so many are kept
    need_checkpoints: bool = True  # end where one cannot be written (false: say so, and try again with the next)


@dataclass
class TrackSpec:
    """Weights & Biases (track.*). metrics.jsonl and summary.json are always written."""

    wandb: str = "off"  # online, offline or off
    project: str = "fastgen"  # of W&B
    entity: str | None = None  # of W&B: a user or a team (None: the default one)
    group: str | None = None  # None: the recipe's name
    job_type: str | None = None  # None: the label corruption
    tags: list[str] = field(default_factory=list)  # of W&B, beside network, source and pixel corruption
    log_steps: int = 50  # steps between lines of metrics

    def resolved(self) -> "TrackSpec":
        """With W&B's own WANDB_MODE and WANDB_DISABLED, of which and of `wandb` the one that tells least counts."""
        if self.wandb not in TRACKING:
            return self  # which `validate` refuses
        mode = {"disabled": "off", "dryrun": "offline", "offline": "offline"}.get(os.environ.get("WANDB_MODE", ""))
        disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes")
        wishes = [self.wandb, mode or "online", "off" if disabled else "online"]
        return dataclasses.replace(self, wandb=max(wishes, key=TRACKING.index))


@dataclass
class Recipe:
    """One experiment, complete."""

    recipe: str = ""
    seed: int = 0  # of initial weights, order of samples, random changes of images, dropout
    data: DataSpec = field(default_factory=DataSpec)
    bake: BakeSpec = field(default_factory=BakeSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    run: RunSpec = field(default_factory=RunSpec)
    track: TrackSpec = field(default_factory=TrackSpec)

    def to_yaml(self) -> str:
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)

    def flat(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return dict(leaves(Recipe, dataclasses.asdict(self)))


def leaves(schema: type | None, values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings. A mapping that the schema takes as a value is not taken apart."""
    types = typing.get_type_hints(schema) if schema else {}
    for key, value in values.items():
        inner = types.get(key)
        if isinstance(value, dict) and (inner is None or is_dataclass(inner)):
            yield from leaves(inner if is_dataclass(inner) else None, value, f"{prefix}{key}.")  # type: ignore
        else:
            yield f"{prefix}{key}", value


def known_keys(schema: Any = None) -> dict[str, Any]:
    """Every dotted key with its default, or with its value in `schema`."""
    schema = schema or Recipe()
    return {key: value for key, value in leaves(type(schema), dataclasses.asdict(schema)) if key != "recipe"}
