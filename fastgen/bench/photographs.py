"""The photographs that benchmarks read: a user's files, taken over and over until there are enough."""

from pathlib import Path

from pipelines.errors import UserError
from pipelines.locations import data_root


def repeated(images: Path | None, samples: int, folder: Path) -> Path:
    """Class folders of `samples` links to the JPEG files in the class folders of `images`, made in `folder`.

    images: None for the sample of ImageNet under FASTGEN_DATA. Raises UserError where it has no such files.
    """
    given = images or data_root() / "imagenet_sample"
    files = sorted(path for path in given.glob("*/*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise UserError(f"{given} has no class folders with JPEG files; name such a folder with --images")
    for number in range(samples):
        path = files[number % len(files)]
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / f"{number // len(files)}_{path.name}").symlink_to(path.resolve())
    return folder
