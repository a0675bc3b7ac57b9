"""The paper's experiments as grids of recipes, and the paper's number for each of their points."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from fastgen.models import is_known
from fastgen.paper.numbers import table
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
# Settings of the small scale: a subset, and a rate of logging, that show a curve within minutes on a CPU.
_SMOKE = (f"data.limit={SMOKE_SAMPLES}", f"data.limit_test={SMOKE_SAMPLES}", "track.log_steps=10")


@dataclass(frozen=True)
class Entry:
    """A row of a table, or a point of a curve, with the recipe that measures it.

    labels: column -> text. paper: key of summary.json -> the paper's number (percent, or a word). level: label
    corruption in [0, 1].
    """

    labels: dict[str, str]
    recipe: str
    settings: tuple[str, ...] = ()
    paper: dict[str, str] = field(default_factory=dict)
    level: float | None = None

    def point(self, seed: int, more: tuple[str, ...]) -> Point:
        # Each seed has a labelling, an order and an initialisation of its own.
        seeds = () if seed == 0 else (f"seed={seed}", f"data.labels.seed={seed}", f"data.pixels.seed={seed}")
        return Point(self.recipe, (*self.settings, *seeds, *more))


@dataclass(frozen=True)
class Scope:
    """How much of an experiment. models: which networks (None: the experiment's own). smoke: the small scale."""

    models: list[str] | None
    smoke: bool

    @property
    def settings(self) -> tuple[str, ...]:
        return _SMOKE if self.smoke else ()

    def among(self, known: Iterable[str], usual: list[str] | None = None, smoke: list[str] | None = None) -> list[str]:
        """The chosen networks: --models, else `smoke` at the small scale, else `usual`, else all that are known.

        Raises UserError for one that is not.
        """
        chosen = self.models or (smoke if self.smoke else None) or usual or list(known)
        for model in chosen:
            if model not in known:
                raise UserError(f"--models has '{model}', and this experiment has {', '.join(known)}")
        return chosen

    def rows(self, number: int) -> list[dict[str, str]]:
        """The rows of table `number` in the paper that are of the chosen networks."""
        rows = table(number)
        models = self.among(dict.fromkeys(row["model"] for row in rows))
        return [row for row in rows if row["model"] in models]


@dataclass(frozen=True)
class Cited:
    """A row that the paper cites. labels, paper: as of an `Entry`."""

    labels: dict[str, str]
    paper: dict[str, str]


@dataclass(frozen=True)
class Experiment:
    """title: what the paper calls it. entries: its rows or points. columns: summary.json's key -> heading.

    seeds: of each row's runs, unless --seeds names others. notes: what a reader must know. cited: rows that the paper
    cites from others, which nothing here measures. of_paper: whether it is one of the paper's, and so of all of them.
    """

    title: str
    entries: Callable[[Scope], list[Entry]]
    columns: dict[str, str]
    smoke: bool = True
    seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    cited: tuple[Cited, ...] = ()
    of_paper: bool = True


def _switched_on(row: dict[str, str], switches: dict[str, str]) -> list[str]:
    """switches: column of a table -> its name in a recipe's name. Returns the names of the columns that say yes."""
    return [name for column, name in switches.items() if row[column] == "yes"]


def _table1(scope: Scope) -> list[Entry]:
    entries = []
    for row in scope.rows(1):
        switches = _switched_on(row, {"random_crop": "crop", "weight_decay": "decay"})
        labels = {"model": MODELS[row["model"]], "labels": row["labels"]}
        labels |= {"random crop": row["random_crop"], "weight decay": row["weight_decay"]}
        paper = {"train_top1": row["train_acc"], "test_top1": row["test_acc"]}
        recipe = "_".join(["cifar10", row["model"], row["labels"], *switches])
        entries.append(Entry(labels, recipe, scope.settings, paper))
    return entries


def _table2(scope: Scope) -> list[Entry]:
    scope.among(("inception_v3",))
    entries = []
    for row in table(2):
        switches = _switched_on(row, {"data_aug": "aug", "dropout": "dropout", "weight_decay": "decay"})
        # A recipe without a suffix is the first row of its labels: all switched on for true labels, none for random.
        suffix = {
            "true": {3: "", 1: "_aug" if "aug" in switches else "_decay", 0: "_plain"},
            "random": {2: "_dropout_decay", 1: "_decay", 0: ""},
        }[row["labels"]][len(switches)]
        labels = {"labels": row["labels"], "augmentation": row["data_aug"]}
        labels |= {"dropout": row["dropout"], "weight decay": row["weight_decay"]}
        paper = {"train_top1": "top1_train", "train_top5": "top5_train", "test_top1": "top1_test"}
        paper |= {"test_top5": "top5_test", "best_test_top1": "best_top1_test", "best_test_top5": "best_top5_test"}
        recipe = f"imagenet_inception_{row['labels']}{suffix}"
        entries.append(Entry(labels, recipe, (), {key: row[column] for key, column in paper.items()}))
    return entries


def _table4(scope: Scope) -> list[Entry]:
    suffix = {"weight_decay": "decay", "random_cropping": "crop", "augmentation": "augment"}
    return [
        Entry(
            {"regularizer": row["regularizer"].replace("_", " "), "model": MODELS[row["model"]]},
            f"cifar10_{row['model']}_random_{suffix[row['regularizer']]}",
            scope.settings,
            {"train_top1": row["train_acc_on_random_labels"]},
        )
        for row in scope.rows(4)
    ]


# Regulariser -> what it sets. Training is as long, and its rate falls as slowly, as with the paper's own augmentation
# where what is fitted changes from epoch to epoch.
_SLOWLY = ("schedule.factor=0.999", "train.epochs=300")
_OF_TODAY = {
    "none": (),
    "dropout 0.5": ("model.dropout=0.5",),
    "label smoothing 0.1": ("train.label_smoothing=0.1",),
    "mixup, alpha 1": ("train.mixup=1.0", *_SLOWLY),
    "CutMix, alpha 1": ("train.cutmix=1.0", *_SLOWLY),
    "RandAugment, 2 changes of strength 9": ("data.augment.rand_ops=2", "data.augment.rand_magnitude=9", *_SLOWLY),
}
# Of the paper's networks none has residual branches to leave out.
_RESNET18 = ("model.name=resnet18",)
_OF_RESNETS = {"none": (), "stochastic depth 0.2": ("model.options.drop_path_rate=0.2",)}


def _regularisers(scope: Scope) -> list[Entry]:
    """Table 4, and the regularisers that came after it."""
    table4 = {row["model"] for row in table(4)}
    chosen = scope.among([*MODELS, "resnet18"], usual=[*(name for name in MODELS if name in table4), "resnet18"])
    entries = _table4(replace(scope, models=known)) if (known := [name for name in chosen if name in table4]) else []
    plain = [row for row in table(1) if row["labels"] == "random" and "yes" not in row.values()]
    unregularised = {row["model"]: row["train_acc"] for row in plain}
    entries += [
        Entry(
            {"regularizer": regulariser, "model": MODELS[model]},
            f"cifar10_{model}_random",
            (*settings, *scope.settings),
            {"train_top1": unregularised[model]} if regulariser == "none" else {},
        )
        for model in ("inception", "alexnet")
        if model in chosen
        for regulariser, settings in _OF_TODAY.items()
    ]
    if "resnet18" in chosen:
        entries += [
            Entry(
                {"regularizer": regulariser, "model": "ResNet-18 (timm)"},
                "cifar10_inception_random",
                (*_RESNET18, *settings, *scope.settings),
            )
            for regulariser, settings in _OF_RESNETS.items()
        ]
    return entries


def _fig1a(scope: Scope) -> list[Entry]:
    model, *others = scope.among(MODELS, usual=["inception"], smoke=["mlp_1x512"])
    if others:
        raise UserError("fig1a shows one network: name one with --models")
    settings = (*scope.settings, "train.stop_at_interpolation=true")
    return [
        Entry({"condition": text, "model": MODELS[model]}, f"cifar10_{model}_{condition}", settings)
        for condition, text in CONDITIONS.items()
    ]


def _by_corruption(scope: Scope) -> list[Entry]:
    return [
        Entry(
            {"model": MODELS[model], "corruption": f"{level:g}"},
            f"cifar10_{model}_partial",
            (f"data.labels.p={level}", *scope.settings),
            level=level,
        )
        for model in scope.among(("inception", "alexnet", "mlp_1x512"), smoke=["mlp_1x512"])
        for level in LEVELS
    ]


def _fig2a(scope: Scope) -> list[Entry]:
    scope.among(("inception_v3",))
    return [
        Entry({"curve": "augmentation, dropout, weight decay"}, "imagenet_inception_true"),
        Entry({"curve": "weight decay alone"}, "imagenet_inception_true_decay"),
    ]


def _fig2b(scope: Scope) -> list[Entry]:
    models = scope.among(MODELS, usual=["inception", "inception_nobn"], smoke=["mlp_3x512"])
    return [Entry({"curve": MODELS[model]}, f"cifar10_{model}_true", scope.settings) for model in models]


def _rademacher(scope: Scope) -> list[Entry]:
    """The paper's networks, or any that timm knows."""
    entries = []
    for model in scope.models or (["mlp_1x512"] if scope.smoke else list(MODELS)):
        if model in MODELS:  # its own recipe has its learning rate
            recipe, setting = f"cifar10_{model}_random", "data.labels.kind=rademacher"
        elif is_known(model):
            recipe, setting = "rademacher", f"model.name={model}"
        else:
            raise UserError(f"--models has '{model}', and is one of {', '.join(MODELS)} or a network that timm knows")
        labels, paper = {"model": MODELS.get(model, model)}, {"rademacher_complexity": "close to 1"}
        entries.append(Entry(labels, recipe, (setting, *scope.settings), paper))
    return entries


_ACCURACIES = {"train_top1": "training", "test_top1": "test"}
_ALL_ACCURACIES = {
    "train_top1": "training top-1", "train_top5": "training top-5", "test_top1": "test top-1",
    "test_top5": "test top-5", "best_test_top1": "best test top-1", "best_test_top5": "best test top-5",
}  # fmt: skip
_FITTED = {**_ACCURACIES, "epoch_at_99": "99 % at epoch", "fitted_epoch": "fitted at epoch"}

EXPERIMENTS: Registry[Experiment] = Registry("experiment")
EXPERIMENTS.add("table1", Experiment("Table 1: CIFAR-10", _table1, _ACCURACIES))
EXPERIMENTS.add(
    "table2",
    Experiment(
        "Table 2: ImageNet, Inception V3",
        _table2,
        _ALL_ACCURACIES,
        smoke=False,
        notes=(
            "Best test: over all evaluations, which early stopping would keep; the paper prints it in brackets for "
            "the two rows on true labels without augmentation.",
        ),
        cited=(
            Cited(
                {
                    "labels": "true (AlexNet: Krizhevsky et al., 2012)",
                    "augmentation": "yes",
                    "dropout": "yes",
                    "weight decay": "yes",
                },
                {"test_top5": "83.6"},
            ),
        ),
    ),
)
EXPERIMENTS.add(
    "table4", Experiment("Table 4: regularizers on random labels, CIFAR-10", _table4, {"train_top1": "training"})
)
EXPERIMENTS.add(
    "regularisers",
    Experiment(
        "Table 4, continued: today's regularizers on random labels, CIFAR-10",
        _regularisers,
        {"train_top1": "training", "fitted_epoch": "fitted at epoch"},
        notes=(
            "The paper has the rows that show a number of its own, of table 4 and without a regularizer of table 1, "
            "and no others. Training accuracy is of each image as it is, as labelled, without mixing, augmentation and "
            "dropout.",
            "Stochastic depth leaves out residual branches, which none of the paper's networks has: its rows are "
            "timm's ResNet-18, with the small Inception's settings.",
        ),
        of_paper=False,
    ),
)
EXPERIMENTS.add("fig1a", Experiment("Figure 1a: learning curves", _fig1a, _FITTED))
EXPERIMENTS.add("fig1b", Experiment("Figure 1b: time to overfit", _by_corruption, _FITTED))
EXPERIMENTS.add("fig1c", Experiment("Figure 1c: test error", _by_corruption, _FITTED))
EXPERIMENTS.add(
    "fig2a",
    Experiment(
        "Figure 2a: ImageNet, early stopping",
        _fig2a,
        _ALL_ACCURACIES,
        smoke=False,
        notes=(
            "Compared are all regularizers with the row of table 2 that has neither augmentation nor dropout and keeps "
            "weight decay, which is taken for the paper's second curve; imagenet_inception_true_plain has no weight "
            "decay either.",
        ),
    ),
)
EXPERIMENTS.add("fig2b", Experiment("Figure 2b: with and without batch norm", _fig2b, _ACCURACIES))
EXPERIMENTS.add(
    "rademacher",
    Experiment(
        "Section 2.2: empirical Rademacher complexity",
        _rademacher,
        {"train_top1": "signs fitted (%)", "rademacher_complexity": "complexity", "fitted_epoch": "fitted at epoch"},
        seeds=(0, 1, 2),
        notes=(
            "Each seed is a draw of one random sign for each training image. Complexity: (1/n) sum_i sigma_i h(x_i), "
            "twice the fraction of the signs that the network fits less 1; the mean over draws, and their standard "
            "deviation. What training finds is a lower bound of the supremum over the networks. At 1 the "
            "generalization bound is vacuous.",
        ),
    ),
)

# Experiments that are computed, not trained: name -> the module with its STUDY, which takes seconds to import.
STUDIES: Registry[str] = Registry("experiment")
STUDIES.add("table3", "fastgen.paper.table3")
STUDIES.add("table3_bandwidth", "fastgen.paper.bandwidth")
STUDIES.add("theorem1", "fastgen.paper.theorem1")
STUDIES.add("minnorm", "fastgen.paper.minnorm")


def names() -> list[str]:
    """All that `fastgen reproduce` takes."""
    return [*EXPERIMENTS, *STUDIES, "all"]


# Recipe -> which setting, left open by the paper, moves its accuracy, for those more than 1.5 points from the paper's.
# Each accuracy is of one whole run, seed 0, of `fastgen train recipe=NAME` with the key that is named.
WHAT_MOVES_IT: dict[str, str] = {
    "cifar10_mlp_3x512_true": (
        "MLP 3x512, true labels: what moves the test accuracy is the batch size, which the paper leaves open; "
        "data.batch_size=64: 55.15 %, 128 (ours): 54.21 %, 256: 53.30 %, all with 100 % training accuracy."
    ),
    "cifar10_mlp_1x512_true_decay": (
        "MLP 1x512, weight decay: what moves the test accuracy is the coefficient, which the paper leaves open; "
        "with optim.decay_on=all: optim.weight_decay=0: 51.35 %, 5e-4: 52.38 %, 4e-3: 55.62 % (with 97.17 % training "
        "accuracy). Ours is 4e-5 on weights."
    ),
}
