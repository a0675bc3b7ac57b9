"""Labels that people gave and others publish as tables: by which name, in which file, and where that is looked for.

CIFAR-10N and CIFAR-100N: Wei, Zhu, Cheng, Liu, Niu, Liu, "Learning with noisy labels revisited", ICLR 2022,
https://github.com/UCSC-REAL/cifar-10-100n. Their files follow torchvision's order of the images.
"""

from pathlib import Path

from pipelines.corruptions.tables import KINDS
from pipelines.errors import UserError, did_you_mean
from pipelines.locations import data_root

_FOLDERS = {"CIFAR-10_human.pt": "cifar10n", "CIFAR-100_human.pt": "cifar100n"}  # below FASTGEN_DATA
_CLONE = "cifar-10-100n/data"  # where both lie in the authors' repository
_CIFAR_10N = ("worse_label", "aggre_label", "random_label1", "random_label2", "random_label3")
_SOURCES = {"noisy_label": "cifar100", "noisy_coarse_label": "cifar100_coarse"} | dict.fromkeys(_CIFAR_10N, "cifar10")
PUBLISHED = {  # column -> its file
    **dict.fromkeys(_CIFAR_10N, "CIFAR-10_human.pt"),
    **dict.fromkeys(("noisy_label", "noisy_coarse_label"), "CIFAR-100_human.pt"),
}


def check_published(name: str | None) -> None:
    """Raises UserError unless the name is one of PUBLISHED."""
    if name not in PUBLISHED:
        told = f"; of '{name}': {did_you_mean(name, PUBLISHED)}" if name else f", one of {', '.join(PUBLISHED)}"
        raise UserError(
            f"data.labels.kind=table needs data.labels.file=PATH ({KINDS}), or the data.labels.name of labels that are "
            f"published{told}"
        )


def check_source(name: str, source: str) -> None:
    """Raises UserError where the labels `name`, one of PUBLISHED, are of another of the named data sets."""
    wanted = _SOURCES[name]
    if source != wanted and source in _SOURCES.values():
        raise UserError(f"data.labels.name={name} has labels of data.source={wanted}, and not of {source}")


def published_file(name: str) -> Path:
    """The file that holds the labels `name`, one of PUBLISHED. Raises UserError where it is not found."""
    file = PUBLISHED[name]
    places = [data_root() / folder / file for folder in (_FOLDERS[file], _CLONE)]
    for path in places:
        if path.is_file():
            return path
    raise UserError(
        f"data.labels.name={name} is a column of {file}, which is not at {' or '.join(map(str, places))}: put it there "
        "(from https://github.com/UCSC-REAL/cifar-10-100n), or name it by data.labels.file"
    )
