"""How fast photographs are baked, and how large they become.

    python benchmarks/bake_photographs.py FOLDER [--repeat 4]

FOLDER: class folders of JPEG files; each file is taken --repeat times. Hashes and manifest are included.
"""

import argparse
import tempfile
import time
from pathlib import Path

from pipelines.bake import BakeSpec, bake
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.sources import SourceSpec

ENCODINGS = {
    "original bytes": BakeSpec("jpeg"),
    "JPEG 90, longest side 500": BakeSpec("jpeg", resolution=500),
    "JPEG 90, longest side 400": BakeSpec("jpeg", resolution=400),
    "raw, longest side 400": BakeSpec("raw", resolution=400),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photographs"
        for path in sorted(arguments.folder.glob("*/*")):
            (root / path.parent.name).mkdir(parents=True, exist_ok=True)
            for number in range(arguments.repeat):
                (root / path.parent.name / f"{number}_{path.name}").symlink_to(path.resolve())
        for name, spec in ENCODINGS.items():
            started = time.perf_counter()
            cache = Path(folder) / name
            baked = bake(SourceSpec("imagefolder", str(root)), LabelSpec("random"), PixelSpec(), spec, cache)
            rate = baked.betons["train"].samples / (time.perf_counter() - started)
            size = baked.betons["train"].sizes.mean() / 1e3
            print(f"{name:26} {rate:6.0f} images/s {size:6.1f} kB an image")


if __name__ == "__main__":
    main()
