"""The paper's experiments as grids of recipes, and the paper's number for each of their points."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fastgen.models import is_known
from fastgen.paper.numbers import Row, table
from fastgen.sweeps.grid import Point
from pipelines.errors import UserError
from pipelines.registry import Registry

MODELS = {
    "inception": "Inception",
    "inception_nobn": "Inception w/o BatchNorm",
    "alexnet": "AlexNet",
    "mlp_3x512": "MLP 3x512",
    "mlp_1x512": "MLP 1x512",
}
CONDITIONS = {
    "true": "true labels",
    "random": "random labels",
    "shuffled_pixels": "shuffled pixels",
    "random_pixels": "random pixels",
    "gaussian": "gaussian",
}
LEVELS = tuple(round(0.1 * i, 1) for i in range(11))
SMOKE_SAMPLES = 5000
# A subset and a rate of logging that show a curve within minutes on a CPU.
_SMOKE = (f"data.limit={SMOKE_SAMPLES}", f"data.limit_test={SMOKE_SAMPLES}", "track.log_steps=10")


@dataclass(frozen=True)
class Entry:
    """A row of a table, or a curve's point: what it is, the recipe that measures it, and what the paper says.

    labels: column -> text. paper: key of summary.json -> the paper's number (percent, or a word). level: of corruption.
    """

    labels: dict[str, str]
    recipe: str
    settings: tuple[str, ...] = ()
    paper: dict[str, str] = field(default_factory=dict)
    level: float | None = None

    def point(self, seed: int, more: tuple[str, ...]) -> Point:
        # A labelling, an order and an initialisation of its own for each seed.
        seeds = () if seed == 0 else (f"seed={seed}", f"data.labels.seed={seed}", f"data.pixels.seed={seed}")
        return Point(self.recipe, (*self.settings, *seeds, *more))


@dataclass(frozen=True)
class Scope:
    """How much of an experiment. models: which networks (None: the experiment's own). smoke: the small scale."""

    models: list[str] | None
    smoke: bool

    def among(self, known: tuple[str, ...], smoke: tuple[str, ...] | None = None) -> list[str]:
        """The chosen ones of an experiment's networks. Raises UserError for one that it does not have."""
        chosen = self.models or list(smoke if self.smoke and smoke else known)
        for model in chosen:
            if model not in known:
                raise UserError(f"--models has '{model}', and this experiment has {', '.join(known)}")
        return chosen


@dataclass(frozen=True)
class Experiment:
    """title: what the paper calls it. entries: its rows or points. columns: summary.json's key -> heading.

    seeds: of the runs of each row, where none are asked for. notes: what a reader must know about it.
    """

    title: str
    entries: Callable[[Scope], list[Entry]]
    columns: dict[str, str]
    smoke: bool = True
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()


def _yes(value: str) -> bool:
    return value == "yes"


def table1_recipe(row: Row) -> str:
    switches = [name for name, on in (("crop", row["random_crop"]), ("decay", row["weight_decay"])) if _yes(on)]
    return "_".join(["cifar10", row["model"], row["labels"], *switches])


def _table1(scope: Scope) -> list[Entry]:
    rows = table(1)
    models = scope.among(tuple(dict.fromkeys(row["model"] for row in rows)))
    return [
        Entry(
            {
                "model": MODELS[row["model"]],
                "labels": row["labels"],
                "random crop": row["random_crop"],
                "weight decay": row["weight_decay"],
            },
            table1_recipe(row),
            _SMOKE if scope.smoke else (),
            {"train_top1": row["train_acc"], "test_top1": row["test_acc"]},
        )
        for row in rows
        if row["model"] in models
    ]


def _table2(scope: Scope) -> list[Entry]:
    scope.among(("inception_v3",))
    entries = []
    for row in table(2):
        switches = [
            name
            for name, on in (("aug", row["data_aug"]), ("dropout", row["dropout"]), ("decay", row["weight_decay"]))
            if _yes(on)
        ]
        # The recipe without a suffix is the first row of its labels: everything on, or for random labels nothing.
        suffix = {
            "true": {3: "", 1: "_aug" if "aug" in switches else "_decay", 0: "_plain"},
            "random": {2: "_dropout_decay", 1: "_decay", 0: ""},
        }[row["labels"]][len(switches)]
        labels = {"labels": row["labels"], "augmentation": row["data_aug"]}
        labels |= {"dropout": row["dropout"], "weight decay": row["weight_decay"]}
        paper = {"train_top1": "top1_train", "train_top5": "top5_train", "test_top1": "top1_test"}
        paper |= {"test_top5": "top5_test", "best_test_top1": "best_top1_test", "best_test_top5": "best_top5_test"}
        entries.append(
            Entry(labels, f"imagenet_inception_{row['labels']}{suffix}", (), {k: row[v] for k, v in paper.items()})
        )
    return entries


def _table4(scope: Scope) -> list[Entry]:
    rows = table(4)
    models = scope.among(tuple(dict.fromkeys(row["model"] for row in rows)))
    suffix = {"weight_decay": "decay", "random_cropping": "crop", "augmentation": "augment"}
    return [
        Entry(
            {"regularizer": row["regularizer"].replace("_", " "), "model": MODELS[row["model"]]},
            f"cifar10_{row['model']}_random_{suffix[row['regularizer']]}",
            _SMOKE if scope.smoke else (),
            {"train_top1": row["train_acc_on_random_labels"]},
        )
        for row in rows
        if row["model"] in models
    ]


def _fig1a(scope: Scope) -> list[Entry]:
    (model, *others) = scope.among(tuple(MODELS), ("mlp_1x512",)) if scope.models or scope.smoke else ["inception"]
    if others:
        raise UserError("fig1a shows one network: name one with --models")
    return [
        Entry(
            {"condition": text, "model": MODELS[model]},
            f"cifar10_{model}_{condition}",
            (*(_SMOKE if scope.smoke else ()), "train.stop_at_interpolation=true"),
        )
        for condition, text in CONDITIONS.items()
    ]


def _by_corruption(scope: Scope) -> list[Entry]:
    models = scope.among(("inception", "alexnet", "mlp_1x512"), ("mlp_1x512",))
    return [
        Entry(
            {"model": MODELS[model], "corruption": f"{level:g}"},
            f"cifar10_{model}_partial",
            (f"data.labels.p={level}", *(_SMOKE if scope.smoke else ())),
            level=level,
        )
        for model in models
        for level in LEVELS
    ]


def _fig2a(scope: Scope) -> list[Entry]:
    scope.among(("inception_v3",))
    return [
        Entry({"curve": "all regularizers"}, "imagenet_inception_true"),
        Entry({"curve": "none"}, "imagenet_inception_true_plain"),
    ]


def _fig2b(scope: Scope) -> list[Entry]:
    models = scope.among(tuple(MODELS), ("mlp_3x512",)) if scope.models or scope.smoke else list(MODELS)[:2]
    return [Entry({"curve": MODELS[model]}, f"cifar10_{model}_true", _SMOKE if scope.smoke else ()) for model in models]


def _rademacher(scope: Scope) -> list[Entry]:
    """The paper's networks, or any that timm knows."""
    entries = []
    for model in scope.models or (["mlp_1x512"] if scope.smoke else list(MODELS)):
        if model not in MODELS and not is_known(model):
            raise UserError(f"--models has '{model}', and is one of {', '.join(MODELS)} or a network that timm knows")
        settings: tuple[str, ...] = (f"model.name={model}",)
        recipe = "rademacher"
        if model in MODELS:  # with its own learning rate
            recipe, settings = f"cifar10_{model}_random", ("data.labels.kind=rademacher",)
        entries.append(
            Entry(
                {"model": MODELS.get(model, model)},
                recipe,
                (*settings, *(_SMOKE if scope.smoke else ())),
                {"rademacher_complexity": "close to 1"},
            )
        )
    return entries


_ACCURACIES = {"train_top1": "training", "test_top1": "test"}
_ALL_ACCURACIES = {
    "train_top1": "training top-1", "train_top5": "training top-5", "test_top1": "test top-1",
    "test_top5": "test top-5", "best_test_top1": "best test top-1", "best_test_top5": "best test top-5",
}  # fmt: skip
_FITTED = {**_ACCURACIES, "interpolation_epoch": "fitted at epoch"}

EXPERIMENTS: Registry[Experiment] = Registry("experiment")
EXPERIMENTS.add("table1", Experiment("Table 1: CIFAR-10", _table1, _ACCURACIES))
EXPERIMENTS.add("table2", Experiment("Table 2: ImageNet, Inception V3", _table2, _ALL_ACCURACIES, smoke=False))
EXPERIMENTS.add(
    "table4", Experiment("Table 4: regularizers on random labels, CIFAR-10", _table4, {"train_top1": "training"})
)
EXPERIMENTS.add("fig1a", Experiment("Figure 1a: learning curves", _fig1a, _FITTED))
EXPERIMENTS.add("fig1b", Experiment("Figure 1b: time to overfit", _by_corruption, _FITTED))
EXPERIMENTS.add("fig1c", Experiment("Figure 1c: test error", _by_corruption, _FITTED))
EXPERIMENTS.add("fig2a", Experiment("Figure 2a: ImageNet, early stopping", _fig2a, _ALL_ACCURACIES, smoke=False))
EXPERIMENTS.add("fig2b", Experiment("Figure 2b: with and without batch norm", _fig2b, _ACCURACIES))
EXPERIMENTS.add(
    "rademacher",
    Experiment(
        "Section 2.2: empirical Rademacher complexity",
        _rademacher,
        {
            "train_top1": "signs fitted (%)",
            "rademacher_complexity": "complexity",
            "interpolation_epoch": "fitted at epoch",
        },
        seeds=(0, 1, 2),
        notes=(
            "Each seed is a draw of one random sign for each training image. Complexity: (1/n) sum_i sigma_i h(x_i), "
            "twice the fraction of the signs that the network fits less 1; the mean over draws, and their standard "
            "deviation. What training finds is a lower bound of the supremum over the networks. At 1 the "
            "generalization bound is vacuous.",
        ),
    ),
)

# What is computed rather than trained: the module whose STUDY it is, which takes seconds to import.
STUDIES: Registry[str] = Registry("experiment")
STUDIES.add("table3", "fastgen.paper.table3")
STUDIES.add("theorem1", "fastgen.paper.theorem1")
STUDIES.add("minnorm", "fastgen.paper.minnorm")


def names() -> list[str]:
    """All that `fastgen reproduce` takes."""
    return [*EXPERIMENTS, *STUDIES, "all"]


# Where a figure is more than 1.5 points from the paper's: what the paper leaves open, varied, and what that moves.
# Each figure is of one whole run, seed 0, made with `fastgen train recipe=NAME` and the key that is named.
WHAT_MOVES_IT: dict[str, str] = {
    "cifar10_mlp_3x512_true": (
        "MLP 3x512, true labels: what moves the test accuracy is the batch size, which the paper leaves open; "
        "data.batch_size=64: 55.15 %, 128 (ours): 54.21 %, 256: 53.30 %, all with 100 % training accuracy."
    ),
    "cifar10_mlp_1x512_true_decay": (
        "MLP 1x512, weight decay: what moves the test accuracy is the coefficient, which the paper leaves open; "
        "optim.weight_decay=0: 51.35 %, 5e-4 (ours): 52.38 %, 4e-3: 55.62 % (with 97.17 % training accuracy)."
    ),
}
