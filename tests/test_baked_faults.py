"""Whatever happens to a bake, a column, an export or their files: nothing is lost, and nothing wrong is taken."""

import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from fastgen import cli
from pipelines.baked import bake as bake_module
from pipelines.baked import beton as beton_module
from pipelines.baked import encoding, notes
from pipelines.baked import writer as writer_module
from pipelines.baked.bake import bake, lock_of
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.export import export
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.baked.staging import staged
from pipelines.baked.verify import recompute
from pipelines.baked.writer import Writer
from pipelines.corruptions import LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec
from pipelines.sources.tars import index_tar

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


@pytest.mark.parametrize("note", ["train.parts", "train.rows", ".train.done.json"])
@pytest.mark.parametrize("damage", ["bit", "cut", "garbage", "no fields", "empty", "missing"])
def test_an_unreadable_note_means_not_done(tmp_path, small_parts, monkeypatch, note, damage):
    new_bake(tmp_path / "whole")

    def stop(path: Path, text: object) -> None:
        if path.name == "manifest.json" or (note != ".train.done.json" and path.name == ".train.done.json"):
            raise KeyboardInterrupt
        durable(path, text)

    durable = bake_module.write_durably
    monkeypatch.setattr(bake_module, "write_durably", stop)
    if note != ".train.done.json":
        # Notes of parts are removed with a file's end: keep them.
        monkeypatch.setattr(writer_module._PartLog, "delete", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        new_bake(tmp_path / "killed")
    monkeypatch.setattr(bake_module, "write_durably", durable)
    (path,) = (tmp_path / "killed").rglob(note)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    changed = {
        "bit": bytes(content), "cut": path.read_bytes()[:-9], "garbage": b"\xff{[" * 50, "no fields": b"[1]\n{}\n3\n",
        "empty": b"",
    }  # fmt: skip
    path.unlink() if damage == "missing" else path.write_bytes(changed[damage])
    new_bake(tmp_path / "killed")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def resealed(path: Path, change) -> None:
    """Change a note's fields and its hash of itself with them."""
    fields = json.loads(path.read_text())
    change(fields)
    fields.pop("sha256", None)
    path.write_text(json.dumps({**fields, "sha256": notes.digest(fields)}))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A baked set and its export."""
    root = tmp_path_factory.mktemp("sets")
    spec = BakeSpec(workers=1, columns=[PAIR])
    baked = bake(SOURCE, RANDOM, PixelSpec("shuffled"), spec, root)
    export(baked, "webdataset", root / "out", shard_bytes=60_000)
    return baked.path, root / "out"


def split_of(fields):
    return fields["splits"]["train"]


CHANGES = {  # of manifest.json, with its hash made anew: what then says so
    "a number as text": (lambda f: f.update(channels="3"), "channels: Input should be a valid integer"),
    "a truth value": (lambda f: f.update(channels=True), "channels: Input should be a valid integer"),
    "out of range": (lambda f: f.update(channels=2), "channels: Value error, 2 is neither 1 nor 3"),
    "missing": (lambda f: f.pop("made_by"), "made_by: Field required"),
    "unknown": (lambda f: f.update(more=1), "more: Unexpected keyword argument"),
    "no splits": (lambda f: f["splits"].clear(), "a set has the splits train and val"),
    "another file": (lambda f: split_of(f).update(file="../train.beton"), "is train.beton"),
    "no classes": (lambda f: f.update(class_names=[]), "class_names: List should have at least 1 item"),
    "fewer classes": (lambda f: f["class_names"].pop(), "differ in the number of classes"),
    "samples": (lambda f: split_of(f).update(samples=29), r"differ in samples \(30 and 29\)"),
    "bytes": (lambda f: split_of(f).update(bytes=7), "has .* bytes where the manifest says 7"),
    "image": (lambda f: split_of(f)["image"].update(width=9), "not of the sizes and kinds"),
    "column": (lambda f: split_of(f)["columns"].pop("pair_0.3_s0"), "differ in the label columns"),
    "seed": (
        lambda f: split_of(f)["columns"]["random_1_s0"]["spec"].update(seed=1), "differ in what random_1_s0 is",
    ),
    "level": (lambda f: split_of(f)["columns"]["random_1_s0"]["spec"].update(p=7.0), "what random_1_s0 is"),
    "changed": (lambda f: split_of(f)["columns"]["random_1_s0"].update(changed=1), "how many labels random_1_s0"),
    "pixels": (lambda f: f["specification"]["pixels"].update(kind="none"), "holds another set, synthetic-none-raw"),
    "source": (lambda f: f["specification"]["source"].update(limit=7), "holds another set"),
    "a split less": (lambda f: f["splits"].pop("val"), "differ in the splits"),
    "an older one": (lambda f: f.update(schema=1), "sha256: Unexpected keyword argument"),
    "a newer one": (lambda f: f.update(schema=3), "has schema 3, this version reads 2"),
    "classes": (lambda f: f["class_names"].reverse(), "the source has other classes"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_manifest_is_told(sets, tmp_path, change, capsys):
    path = Path(shutil.copytree(sets[0], tmp_path / sets[0].name))
    changed, said = CHANGES[change]
    before = (path / "manifest.json").read_text()
    changed(fields := json.loads(before))
    (path / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"manifest\.json is damaged \(|has schema 3"):
        BakedSet.open(path)
    (path / "manifest.json").write_text(before)
    resealed(path / "manifest.json", changed)
    with pytest.raises(UserError, match=said):
        recompute(BakedSet.open(path))
    assert cli.main(["verify", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


ABOUT = {  # of export.json, with its hash made anew
    "a number as text": (lambda f: f.update(channels="3"), "channels: Input should be a valid integer"),
    "a list for a name": (lambda f: f.update(splits=[]), "splits: Input should be"),
    "missing": (lambda f: split_of(f)[0].pop("sha256"), "sha256: Field required"),
    "a file elsewhere": (lambda f: split_of(f)[0].update(file="../x.tar"), "file: String should match"),
    "a negative size": (lambda f: split_of(f)[0].update(bytes=-1), "bytes: Input should be greater"),
    "another size": (lambda f: split_of(f)[0].update(bytes=5), "where export.json says 5"),
    "another hash": (lambda f: split_of(f)[0].update(sha256="0" * 64), "is damaged or was replaced"),
    "a shard less": (lambda f: split_of(f).pop(), "are of different sets"),
    "shards swapped": (lambda f: split_of(f).reverse(), "is not the table of these shards"),
    "a split less": (lambda f: f["splits"].pop("val"), "are of different sets"),
    "no such labels": (lambda f: f["labels"].update(train="pair"), "are of different sets"),
    "another table": (lambda f: f["tables_sha256"].update(train="0" * 64), "is missing, or not what"),
    "other classes": (lambda f: f["class_names"].reverse(), "are of different sets"),
    "an older one": (lambda f: f.update(schema=1), "exported by another version"),
}


@pytest.mark.parametrize("change", ABOUT)
def test_a_changed_export_is_told(sets, tmp_path, change, capsys):
    path = Path(shutil.copytree(sets[1], tmp_path / "out"))
    changed, said = ABOUT[change]
    resealed(path / "export.json", changed)
    with pytest.raises(UserError, match=said):
        Export.open(path, full=True)
    assert cli.main(["verify", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("place", ["set/manifest.json", "set/train.beton", "out/export.json", "out/train.parquet"])
@pytest.mark.parametrize("put", ["folder", "FIFO", "link to itself", "endless", "nothing"])
def test_what_is_no_file_is_told_and_not_waited_for(sets, tmp_path, place, put, capsys):
    for name, path in zip(("set", "out"), sets, strict=True):
        shutil.copytree(path, tmp_path / name)
    path = tmp_path / place
    path.unlink()
    make = {
        "folder": path.mkdir, "FIFO": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path.name),
        "endless": lambda: path.symlink_to("/dev/zero"), "nothing": lambda: None,
    }  # fmt: skip
    make[put]()
    assert cli.main(["verify", str(path.parent)]) == 2
    said = capsys.readouterr().err
    assert str(path.parent) in said and said.count("\n") == 1


def test_sets_whose_folders_changed_names_are_not_served(tmp_path):
    true = bake(SOURCE, RANDOM, NONE, BakeSpec(), tmp_path).path
    noise = bake(SOURCE, RANDOM, PixelSpec("shuffled"), BakeSpec(), tmp_path).path
    for old, new in ((true, tmp_path / "kept"), (noise, true), (tmp_path / "kept", noise)):
        old.rename(new)
    for pixels in (NONE, PixelSpec("shuffled")):
        with pytest.raises(UserError, match="holds another set, synthetic-"):
            bake(SOURCE, RANDOM, pixels, BakeSpec(), tmp_path)
    with pytest.raises(UserError, match="holds another set, synthetic-shuffled"):
        BakedSet.open(true)
    assert BakedSet.open(shutil.copytree(true, tmp_path / "of_my_own")).manifest.specification["pixels"]["kind"] == (
        "shuffled"
    )


def test_verify_finds_labels_and_images_of_another_making(sets, tmp_path):
    """Files whose every hash was made anew: labels and pixels are computed again."""
    lines = recompute(BakedSet.open(sets[0])), recompute(Export.open(sets[1]))
    assert lines[0] == lines[1] and lines[0][0] == (
        "train: pair_0.3_s0, random_1_s0 as computed again; true labels and 30 images as in the source"
    )
    for pixels, column, said in (
        (PixelSpec("shuffled"), lambda labels: np.roll(labels, 1), "random_1_s0 is .* in row .* and its seed gives"),
        (PixelSpec("random"), lambda labels: labels, "the image in row 0 is not what synthetic/train"),
    ):
        root = tmp_path / pixels.kind
        original = bake_module.corrupt_labels
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bake_module, "corrupt_labels", lambda *a, original=original, c=column: c(original(*a)))
            path = bake(SOURCE, RANDOM, pixels, BakeSpec(), root).path
        if pixels.kind == "random":
            resealed(path / "manifest.json", lambda f: f["specification"]["pixels"].update(kind="shuffled"))
            path = path.rename(root / "mine")
        with pytest.raises(UserError, match=said):
            recompute(BakedSet.open(path))


def test_a_source_that_changes_under_a_bake(tmp_path, monkeypatch):
    for number in range(8):
        path = tmp_path / "set" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    spec, encode = SourceSpec("imagefolder", str(tmp_path / "set")), encoding._encode

    def changing(change):
        def call(source, index, *rest):
            if index == 7:
                change(tmp_path / "set" / "class0" / "0.png")
            return encode(source, index, *rest)

        return call

    monkeypatch.setattr(encoding, "_encode", changing(lambda path: Image.new("RGB", (8, 8), "red").save(path)))
    with pytest.raises(UserError, match="train split of data.source=imagefolder changed while it was baked"):
        bake(spec, RANDOM, NONE, BakeSpec(workers=1), tmp_path)
    monkeypatch.setattr(encoding, "_encode", changing(lambda path: (path.unlink(), path.read_bytes())))
    with pytest.raises(UserError, match="0.png: No such file or directory; the bake goes on"):
        bake(spec, RANDOM, NONE, BakeSpec(workers=1), tmp_path)
    assert not [path for path in (tmp_path / "baked").iterdir() if path.is_dir()]


def test_a_set_can_be_opened_while_columns_are_added(tmp_path):
    first = bake(SOURCE, RANDOM, NONE, BakeSpec(), tmp_path)
    wrong, ended = [], threading.Event()

    def opening() -> None:
        while not ended.is_set():
            try:
                BakedSet.open(first.path, expect=first.manifest.identity)
            except UserError as error:
                wrong.append(str(error))

    thread = threading.Thread(target=opening)
    thread.start()
    for seed in range(1, 9):
        bake(SOURCE, LabelSpec("random", seed=seed), NONE, BakeSpec(), tmp_path)
    ended.set()
    thread.join()
    assert wrong == []


def as_another_user(work) -> str:
    """What work() returns in a process of a user who may not write what root made read-only."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            said = work()
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as said:
        return said.read()


def test_a_read_only_cache_that_holds_the_set_is_used():
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        new_bake(root)
        (path,) = (root / "baked").glob("synthetic-*")
        staged(path, root / "local")
        for each in (*root.rglob("*"), root):
            each.chmod(0o555 if each.is_dir() else 0o444)

        def read() -> str:
            baked = bake(SOURCE, RANDOM, NONE, BakeSpec(), root)
            copy = BakedSet.open(staged(baked.path, root / "local"))
            return f"{baked.sha256} {copy.sha256}"

        sha256 = BakedSet.open(path).sha256
        assert as_another_user(read) == f"{sha256} {sha256}"
        assert "has no label column pair_0.3_s0, and its cache cannot be written (Permission denied)" in (
            as_another_user(lambda: new_column(root))
        )
        other = SourceSpec("synthetic", synthetic=SyntheticSpec(31, 22, 8))
        assert "is not baked yet, and its cache cannot be written (Permission denied)" in (
            as_another_user(lambda: bake(other, RANDOM, NONE, BakeSpec(), root))
        )
        assert "local cannot be written (Permission denied)" in as_another_user(
            lambda: staged(path.parent, root / "local")
        )
        for each in (root, *root.rglob("*")):
            each.chmod(0o755)


def test_a_read_only_cache_keeps_no_index_of_a_tar(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        with tarfile.open(root / "a.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo("n01.JPEG"))
        for tars in (False, True):
            monkeypatch.setenv("FASTGEN_CACHE", str(root / f"cache{tars}"))
            (root / f"cache{tars}" / ("tars" if tars else "")).mkdir(parents=True)
            for each in (root, *root.rglob("*")):
                each.chmod(0o555)
            assert (
                as_another_user(lambda: str(index_tar(root / "a.tar", nested=False).names.to_pylist()))
                == "[b'n01.JPEG']"
            )
            root.chmod(0o755)


def test_a_cache_is_shared_whatever_the_umask_is(tmp_path):
    (tmp_path / "baked").mkdir()
    (tmp_path / "baked").chmod(0o775)
    before = os.umask(0o077)
    try:
        new_bake(tmp_path)
        new_column(tmp_path)
    finally:
        os.umask(before)
    found = {p.relative_to(tmp_path).parts[-1]: oct(p.stat().st_mode & 0o777) for p in tmp_path.rglob("*")}
    assert {found[name] for name in ("train.beton", "val.beton", "manifest.json", ".checked.json")} == {"0o664"}
    assert set(found.values()) == {"0o775", "0o664"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/proc/nowhere", "No such file or directory; "),
        ("/dev/null", "Not a directory; "),
        ("file", "Not a directory; "),
        ("n" * 300, "File name too long; "),
        ("~no_such_user/x", "set FASTGEN_CACHE to a folder"),
    ],
)
def test_an_odd_place_is_one_line(sets, tmp_path, place, said, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTGEN_CACHE", place)
    assert cli.main(["bake", "recipe=quickstart"]) == 2
    error = capsys.readouterr().err
    assert said in error and "FASTGEN_CACHE" in error and error.count("\n") == 1
    if not place.startswith("~"):
        for command in (
            ["export", str(sets[0]), "--to", "webdataset", "--output", f"{place}/out"],
            ["inspect", str(sets[0]), "--images", f"{place}/out.png"],
        ):
            assert cli.main(command) == 2
            error = capsys.readouterr().err
            assert place in error and error.count("\n") == 1


def test_clean_shows_and_frees(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path))
    old, new = (bake(SOURCE, RANDOM, PixelSpec(kind), BakeSpec(), tmp_path).path for kind in ("none", "shuffled"))
    os.utime(old / ".checked.json", (0, time.time() - 10 * 86400))
    used = BakedSet.open(bake(SOURCE, RANDOM, PixelSpec("random"), BakeSpec(), tmp_path).path)
    os.utime(used.path / ".checked.json", (0, 0))
    dead = tmp_path / "baked" / f".{new.name}.unfinished"
    dead.mkdir()
    (new / "train.beton.next").touch()
    before = files(tmp_path)

    def clean(*arguments: str) -> tuple[set[str], str]:
        assert cli.main(["clean", *arguments]) == 0
        return {p.name for p in (tmp_path / "baked").iterdir() if p.is_dir()}, capsys.readouterr().out

    there, said = clean("--older-than", "5")
    assert files(tmp_path) == before and "3 of them" in said and "would be removed with --yes" in said
    there, _ = clean("--yes")
    assert there == {old.name, new.name, used.path.name} and not (new / "train.beton.next").exists()
    there, _ = clean("--older-than", "5", "--yes")
    assert there == {new.name, used.path.name}  # a set that is open stays, whenever it was used
    there, _ = clean("--keep-gb", "0", "--yes")
    assert there == {used.path.name}
    left = tmp_path / ".out.export-unfinished"
    left.mkdir()
    clean(str(tmp_path), "--yes")
    assert not left.exists()


def test_clean_takes_only_sets(sets, tmp_path, capsys):
    """A run's folder holds a copy of the manifest, and others call a file so too."""
    run, other = tmp_path / "runs" / "quickstart-001", tmp_path / "runs" / "other"
    for folder in (run, other):
        folder.mkdir(parents=True)
        (folder / ".lock").touch()
    shutil.copy(sets[0] / "manifest.json", run)
    (other / "manifest.json").write_text("{}")
    (tmp_path / "runs" / ".program.lock").touch()
    before = files(tmp_path)
    assert cli.main(["clean", str(tmp_path / "runs"), "--older-than", "0", "--keep-gb", "0", "--yes"]) == 0
    assert files(tmp_path) == before and "0 entries" in capsys.readouterr().out
    for command in ("verify", "inspect"):
        assert cli.main([command, str(run)]) == 2
        assert "holds no set, but a manifest, as a run's folder does" in capsys.readouterr().err


def test_who_waits_says_so_and_what_is_locked_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTGEN_CACHE", str(tmp_path))
    path, said = bake(SOURCE, RANDOM, NONE, BakeSpec(), tmp_path).path, []
    lock = lock_of(path)
    with FileLock(lock):
        waiting = threading.Thread(target=bake, args=(SOURCE, PAIR, NONE, BakeSpec(), tmp_path, said.append))
        waiting.start()
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said == [f"waiting for another process, which holds {lock}"]
        assert cli.main(["clean", "--keep-gb", "0", "--yes"]) == 0 and path.exists()
    waiting.join()
    assert "pair_0.3_s0" in BakedSet.open(path).splits["train"].names
    capsys.readouterr()


def test_few_open_files_are_enough(sets, tmp_path):
    """ulimit -n 64, and an export of more shards."""
    export(BakedSet.open(sets[0]), "webdataset", tmp_path / "out", shard_bytes=1)
    assert len(list((tmp_path / "out").glob("train-*.tar"))) == 30
    text = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
import numpy as np
from pipelines.baked.shards import Export
shards = Export.open(sys.argv[1], full=True).splits["train"]
print(sum(len(file) for batch in shards.encoded([np.arange(30)] * 3) for file in batch) == 3 * shards._bytes.sum())
"""
    done = subprocess.run([sys.executable, "-c", text, tmp_path / "out"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "True\n", done.stderr
