"""Whatever happens to a bake, a column, an export or their files: nothing is lost, and nothing wrong is taken."""

import functools
import os
import shutil
from pathlib import Path

import pytest
from crash_points import deaths, full_disk, watched

from pipelines.baked import bake as bake_module
from pipelines.baked import beton as beton_module
from pipelines.baked import writer as writer_module
from pipelines.baked.bake import BakeSpec, bake
from pipelines.baked.export import export
from pipelines.baked.manifest import BakedSet
from pipelines.baked.writer import Writer
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec

SOURCE = SourceSpec("synthetic", synthetic=SyntheticSpec(30, 22, 8))
RANDOM, PAIR, NONE = LabelSpec("random"), LabelSpec("pair", 0.3), PixelSpec()


def files(folder: Path) -> dict[str, bytes]:
    """What is below a folder, but for locks, stamps and what locks guard."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != ".checked.json"
    }


@pytest.fixture
def small_parts(monkeypatch):
    """Files of several parts without much data. Nothing is flushed to the disk, as no machine dies here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for module in (beton_module, writer_module):
        monkeypatch.setattr(module, "PART_PAGES", 1)
    monkeypatch.setattr(bake_module, "Writer", functools.partial(Writer, page_bytes=1 << 12))


def new_bake(root: Path) -> None:
    bake(SOURCE, RANDOM, NONE, BakeSpec(workers=1), root)


def new_column(root: Path) -> None:
    bake(SOURCE, PAIR, NONE, BakeSpec(workers=1), root)


def new_export(root: Path) -> None:
    if not (root / "out").exists():  # of the attempt that died behind its rename
        (path,) = (root / "baked").glob("synthetic-*")
        export(BakedSet.open(path), "webdataset", root / "out", shard_bytes=60_000)


WORK = {"bake": (new_bake, None), "column": (new_column, new_bake), "export": (new_export, new_bake)}


@pytest.fixture(params=WORK)
def attacked(request, tmp_path, small_parts):
    """(the work, a function that sets its folder up anew and returns it, what is there when it is done)."""
    work, before = WORK[request.param]
    start, root = tmp_path / "start", tmp_path / "root"
    start.mkdir()
    if before:
        before(start)

    def anew() -> Path:
        shutil.rmtree(root, ignore_errors=True)
        return Path(shutil.copytree(start, root))

    work(anew())
    return work, anew, files(root)


def test_a_death_at_any_point_loses_nothing(attacked):
    """Killed once at each point, and the work done again: the same bytes, and no file more."""
    work, anew, whole = attacked
    died = 0
    while deaths(root := anew(), lambda: work(root))(died + 1):
        died += 1
        work(root)
        assert files(root) == whole, f"killed at point {died}"
    assert died > 20


@pytest.mark.parametrize("for_good", [False, True])
def test_a_full_disk_at_any_point_is_one_line_and_loses_nothing(attacked, for_good):
    work, anew, whole = attacked
    with watched(root := anew(), lambda *_: None) as points:
        work(root)
    refused = 0
    for number in range(1, len(points) + 1):
        root, said = anew(), ""
        try:
            with watched(root, full_disk(number, for_good)):
                work(root)
        except UserError as error:
            said = str(error)
            refused += 1
        assert "\n" not in said and (not said or "No space left on device; " in said)
        assert not [path for path in root.rglob("*") if path.name.endswith((".next", ".tmp"))]
        work(root)
        assert files(root) == whole, f"no space at point {number}, {points[number - 1]}"
    assert refused > 10
