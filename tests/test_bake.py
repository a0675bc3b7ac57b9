"""Baking: deterministic, found again, extended without encoding, whole or not there, and honest about damage."""

import io
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import real
from PIL import Image

from pipelines.baked import bake as bake_module
from pipelines.baked import beton as beton_module
from pipelines.baked import encoding
from pipelines.baked import writer as writer_module
from pipelines.baked.bake import bake
from pipelines.baked.beton import JPEG, RAW
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.manifest import BakedSet, Manifest
from pipelines.baked.writer import Writer
from pipelines.corruptions import PIXELS, LabelSpec, PixelSpec
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec, open_source

SYNTHETIC = SourceSpec("synthetic", synthetic=SyntheticSpec(300, 60, 16))
TRUE, RANDOM, NONE = LabelSpec(), LabelSpec("random"), PixelSpec()


def files(baked: BakedSet) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(baked.path.iterdir()) if not p.name.startswith(".")}


@pytest.mark.parametrize("pixels", tuple(PIXELS))
@pytest.mark.parametrize("spec", [BakeSpec(), BakeSpec("jpeg", quality=80), BakeSpec(resolution=12, square=True)])
def test_workers_do_not_change_a_byte(tmp_path, pixels, spec):
    if pixels != "none" and spec.encoding == "jpeg":
        with pytest.raises(UserError, match="noise to JPEG"):
            bake(SYNTHETIC, TRUE, PixelSpec(pixels), spec, tmp_path)
        return
    labels = LabelSpec("partial", 0.5)
    one, eight = (
        bake(SYNTHETIC, labels, PixelSpec(pixels), BakeSpec(**{**vars(spec), "workers": n}), tmp_path / str(n))
        for n in (1, 8)
    )
    assert files(one) == files(eight)
    assert set(files(one)) == {"train.beton", "val.beton", "manifest.json"}


def test_contents_are_the_source_in_a_shuffled_order(tmp_path):
    baked = bake(SYNTHETIC, LabelSpec("random", seed=2), NONE, BakeSpec(), tmp_path)
    for split in ("train", "val"):
        beton, source = baked.splits[split], open_source(SYNTHETIC, split)
        index = beton.columns["index"]
        assert sorted(index.tolist()) == list(range(len(source))) and not np.array_equal(index, np.sort(index))
        images = beton.raw_images()
        assert all(np.array_equal(images[row], source.image(int(i))) for row, i in enumerate(index))
        assert np.array_equal(beton.columns["clean_label"], source.labels[index])
    assert np.array_equal(baked.splits["val"].columns["label_true"], baked.splits["val"].columns["clean_label"])
    split = baked.manifest.splits["train"]
    train = baked.splits["train"].columns
    assert split.columns["random_1_s2"].changed == (train["random_1_s2"] != train["clean_label"]).sum() > 200


def test_found_again_and_never_baked_twice(tmp_path, monkeypatch):
    first = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    monkeypatch.setattr(bake_module, "_bake_new", None)  # would raise if called
    assert bake(SYNTHETIC, TRUE, NONE, BakeSpec(workers=2), tmp_path).path == first.path


@pytest.mark.parametrize(
    "source, pixels, spec",
    [
        (SourceSpec("synthetic", synthetic=SyntheticSpec(301, 60, 16)), NONE, BakeSpec()),
        (SourceSpec("synthetic", limit=20, synthetic=SyntheticSpec(300, 60, 16)), NONE, BakeSpec()),
        (SYNTHETIC, PixelSpec("shuffled"), BakeSpec()),
        (SYNTHETIC, PixelSpec("shuffled", seed=1), BakeSpec()),
        (SYNTHETIC, PixelSpec("shuffled", before_crop=False, window=12), BakeSpec()),
        (SYNTHETIC, NONE, BakeSpec(resolution=8)),
        (SYNTHETIC, NONE, BakeSpec("jpeg")),
        (SYNTHETIC, NONE, BakeSpec("jpeg", quality=50)),
    ],
)
def test_another_specification_is_another_set(tmp_path, source, pixels, spec):
    first = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    assert bake(source, TRUE, pixels, spec, tmp_path).path != first.path


def test_pixels_permuted_within_what_is_shown(tmp_path):
    original = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path).splits["train"]
    inside = bake(SYNTHETIC, TRUE, PixelSpec("random", before_crop=False, window=12), BakeSpec(), tmp_path)
    assert inside.manifest.specification["pixels"] == {"kind": "random", "seed": 0, "patch": 4, "window": 12}
    for row in range(20):
        before, after = original.image(row), inside.splits["train"].image(row)
        differs = (before != after).any(-1)
        assert differs[2:14, 2:14].any() and differs.sum() == differs[2:14, 2:14].sum()
        assert np.array_equal(*(np.sort(image[2:14, 2:14].reshape(-1, 3), 0) for image in (before, after)))


def test_another_labelling_does_not_encode_again(tmp_path, monkeypatch):
    before = bake(SYNTHETIC, TRUE, NONE, BakeSpec("jpeg"), tmp_path)
    monkeypatch.setattr(encoding, "_encode", None)  # would raise if called
    more = BakeSpec("jpeg", columns=[LabelSpec("partial", p / 10) for p in range(11)])
    after = bake(SYNTHETIC, LabelSpec("pair", 0.3), NONE, more, tmp_path)
    assert after.path == before.path and len(after.splits["train"].names) == 3 + 12
    for split in ("train", "val"):
        assert after.manifest.splits[split].payload_sha256 == before.manifest.splits[split].payload_sha256
    BakedSet.open(after.path, full=True)
    # Asked for at once, the same columns make the same file.
    monkeypatch.undo()
    names = [LabelSpec(), LabelSpec("pair", 0.3), *more.columns]
    fresh = bake(SYNTHETIC, names[0], NONE, BakeSpec("jpeg", columns=names[1:]), tmp_path / "fresh")
    assert files(fresh)["train.beton"] == files(after)["train.beton"]


@pytest.mark.parametrize("stop_after", ["nothing", "new file", "new manifest", "first rename"])
def test_a_death_while_adding_a_column_loses_nothing(tmp_path, monkeypatch, stop_after):
    before = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    steps = {"nothing": 0, "new file": 1, "new manifest": 2, "first rename": 3}[stop_after]

    class Died(BaseException):
        pass

    def dying(name, owner, at):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            if steps <= at and "next" in str(args):
                raise Died
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    dying("add_columns", bake_module, 0)
    dying("write_durably", bake_module, 1)
    renames = []
    rename = Path.rename

    def counted(self, target):
        if self.name.endswith(".next"):
            renames.append(self.name)
            if len(renames) > steps - 2:
                raise Died
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", counted)
    with pytest.raises(Died):
        bake(SYNTHETIC, LabelSpec("random"), NONE, BakeSpec(), tmp_path)
    monkeypatch.undo()
    after = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    assert after.path == before.path
    assert bake(SYNTHETIC, LabelSpec("random"), NONE, BakeSpec(), tmp_path).splits["train"].names[-1] == "random_1_s0"
    assert not list(after.path.glob("*.next"))
    BakedSet.open(after.path, full=True)


def _bake_slowly(folder: Path) -> None:
    encode = encoding._encode
    encoding._encode = lambda *a: (time.sleep(0.01), encode(*a))[1]
    bake(SYNTHETIC, TRUE, NONE, BakeSpec(workers=1), folder)


def test_a_killed_bake_leaves_nothing_that_looks_whole(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_bake_slowly, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "baked").glob(".*.unfinished/train.beton")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (unfinished,) = (tmp_path / "baked").glob(".*.unfinished")
    with pytest.raises(UserError, match="is no baked set"):
        BakedSet.open(unfinished)
    baked = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    assert len(baked.splits) == 2 and not unfinished.exists()


LARGE = SourceSpec("synthetic", synthetic=SyntheticSpec(samples=20_000, test_samples=2000, size=64))


def _bake_large(folder: Path) -> None:
    """Says on the disk which samples it encodes."""
    encode = encoding._encode
    with open(folder / "encoded", "ab", buffering=0) as file:

        def noted(source, index, *rest):
            file.write(index.to_bytes(4, "little"))
            return encode(source, index, *rest)

        encoding._encode = noted
        bake(LARGE, RANDOM, NONE, BakeSpec(), folder)


def test_a_bake_killed_five_times_goes_on_and_ends_with_the_same_bytes(tmp_path):
    whole = bake(LARGE, RANDOM, NONE, BakeSpec(), tmp_path / "whole")
    folder = tmp_path / "killed"
    folder.mkdir()
    spawn, random = multiprocessing.get_context("spawn"), np.random.default_rng(0)
    for kill in range(6):
        process = spawn.Process(target=_bake_large, args=(folder,))
        process.start()
        before = (folder / "encoded").stat().st_size if kill else 0
        goal = before + 4 * int(random.integers(1000, 7000))
        while kill < 5 and process.is_alive():
            if (folder / "encoded").exists() and (folder / "encoded").stat().st_size > goal:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.002)
        process.join()
    (baked,) = (p for p in (folder / "baked").iterdir() if p.is_dir())
    for file in ("train.beton", "val.beton", "manifest.json"):
        assert (baked / file).read_bytes() == (whole.path / file).read_bytes()
    assert sorted(p.name for p in baked.iterdir()) == sorted(p.name for p in whole.path.iterdir())
    # Each kill lost less than a part of 64 MiB, and what the threads held.
    images_of_a_part = 8 * (2**23 // (64 * 64 * 3))
    assert (folder / "encoded").stat().st_size / 4 < 22_000 + 5 * (images_of_a_part + 1000)


def test_a_part_that_changed_on_the_disk_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(beton_module, "PART_PAGES", 1)
    monkeypatch.setattr(writer_module, "PART_PAGES", 1)
    images = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    columns = {"index": np.arange(400)}

    def write(path: Path, upto: int) -> int:
        with Writer(path, 400, columns, page_bytes=1 << 13) as writer:
            first = writer.count
            for image in images[first:upto]:
                writer.append(image, RAW, 8, 8)
            if upto == 400:
                writer.finish()
        return first

    assert write(tmp_path / "whole.beton", 400) == 0
    path = tmp_path / "killed.beton"
    assert write(path, 300) == 0
    data = bytearray(path.read_bytes())
    data[-3 * (1 << 13)] ^= 1
    path.write_bytes(data)
    with open(path.with_suffix(".parts"), "a") as file:
        file.write('{"rows": 99')  # cut in the middle of a line
    first = write(path, 400)
    assert 100 < first < 300 and first % ((1 << 13) // 192) == 0
    assert path.read_bytes() == (tmp_path / "whole.beton").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.beton", "whole.beton"]


def test_several_at_once_bake_once(tmp_path, monkeypatch):
    count, original = [], bake_module._bake_new
    monkeypatch.setattr(bake_module, "_bake_new", lambda *a: (count.append(1), original(*a)))
    results = []
    work = lambda: results.append(bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path).sha256)  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count) == 1 and len(set(results)) == 1 and len(results) == 4


def photograph(size=(60, 40), mode="RGB", kind="JPEG", quality=90) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize(size).convert(mode).save(
        out, kind, **({"quality": quality} if kind == "JPEG" else {})
    )
    return out.getvalue()


def folder_of(tmp_path: Path, **named: bytes) -> SourceSpec:
    (tmp_path / "set" / "class0").mkdir(parents=True)
    for name, content in named.items():
        (tmp_path / "set" / "class0" / f"{name}.jpg").write_bytes(content)
    return SourceSpec("imagefolder", str(tmp_path / "set"))


def test_original_jpegs_that_fit_are_kept_byte_for_byte(tmp_path):
    originals = {
        "fits": photograph(),
        "gray": photograph(mode="L"),
        "large": photograph((200, 100)),
        "cmyk": photograph(mode="CMYK"),
        "png": photograph(kind="PNG"),
    }
    baked = bake(folder_of(tmp_path, **originals), TRUE, NONE, BakeSpec("jpeg", resolution=100), tmp_path)
    beton, source = baked.splits["train"], open_source(folder_spec(tmp_path), "train")
    assert list(baked.splits) == ["train"] and (beton.mode == JPEG).all()
    for row, index in enumerate(beton.columns["index"]):
        name = Path(source.sample_name(int(index))).stem
        begin = int(beton.ptr[row])
        stored = beton.data[begin : begin + int(beton.sizes[row])].tobytes()
        assert (stored == originals[name]) == (name in ("fits", "gray")), name
        size = (100, 50) if name == "large" else (60, 40)
        assert (beton.width[row], beton.height[row]) == size
        assert beton.image(row).shape == (size[1], size[0], 3)


def test_what_is_encoded_again_is_the_pixels_alone(tmp_path):
    """As Pillow encodes an array, turned upright: no comment, profile or orientation of the original comes along."""
    original = Image.open(io.BytesIO(photograph((200, 100))))
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    original.save(out, "JPEG", comment=b"by hand", exif=exif, icc_profile=bytes(100), dpi=(72, 72))
    baked = bake(folder_of(tmp_path, commented=out.getvalue()), TRUE, NONE, BakeSpec("jpeg", resolution=100), tmp_path)
    upright = Image.fromarray(np.rot90(np.asarray(Image.open(out)), -1))
    pixels = np.asarray(upright.resize((50, 100), Image.Resampling.BOX))
    expected = io.BytesIO()
    Image.fromarray(pixels).save(expected, "JPEG", quality=90)
    beton = baked.splits["train"]
    assert next(beton.encoded([np.arange(1)]))[0].tobytes() == expected.getvalue()


def folder_spec(tmp_path: Path) -> SourceSpec:
    return SourceSpec("imagefolder", str(tmp_path / "set"))


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_broken_image_is_named_and_nothing_is_left(tmp_path, encoding):
    spec = folder_of(tmp_path, good=photograph(), broken=photograph()[:300])
    with pytest.raises(UserError, match=r"broken\.jpg: cannot be decoded"):
        bake(spec, TRUE, NONE, BakeSpec(encoding), tmp_path)
    assert not [p for p in (tmp_path / "baked").iterdir() if p.is_dir()]


def test_shuffled_pixels_need_one_size(tmp_path):
    spec = folder_of(tmp_path, a=photograph(), b=photograph((64, 40)))
    with pytest.raises(UserError, match="differ in size"):
        bake(spec, TRUE, PixelSpec("shuffled"), BakeSpec(), tmp_path)
    square = bake(spec, TRUE, PixelSpec("shuffled"), BakeSpec(resolution=24, square=True), tmp_path)
    assert square.splits["train"].fixed_size == (24, 24)


@pytest.mark.parametrize("what", ["payload", "label", "cut", "missing", "manifest", "schema"])
def test_damage_is_found_when_the_set_is_opened(tmp_path, what):
    baked = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    path, manifest = baked.path / "train.beton", baked.path / "manifest.json"
    content = bytearray(path.read_bytes())
    if what == "payload":
        content[baked.splits["train"].payload_start + 5000] ^= 1
    elif what == "label":
        content[32 + 4 * 1048 + 40] ^= 1
    elif what == "cut":
        content = content[:-1000]
    path.write_bytes(content)
    if what == "missing":
        path.unlink()
    elif what == "manifest":
        manifest.write_text(manifest.read_text()[:100])
    elif what == "schema":
        manifest.write_text(manifest.read_text().replace('"schema": 2', '"schema": 99'))
    with pytest.raises(UserError, match=r"train\.beton|manifest\.json"):
        BakedSet.open(baked.path)


def test_a_copy_is_checked_and_then_remembered(tmp_path):
    baked = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    stamp = baked.path / ".checked.json"
    before = stamp.read_text()
    os.utime(baked.path / "train.beton")
    BakedSet.open(baked.path)
    assert stamp.read_text() != before


def test_manifest_round_trip(tmp_path):
    baked = bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    path = baked.path / "manifest.json"
    assert Manifest.load(path).to_json() == path.read_text()


@pytest.mark.parametrize(
    "spec, words",
    [
        (BakeSpec("jpg"), "did you mean 'jpeg'"),
        (BakeSpec(square=True), "needs bake.resolution"),
        (BakeSpec(quality=0), "1 to 100"),
        (BakeSpec(resolution=0), "1 to 65535"),
        (BakeSpec(workers=0), "at least 1"),
    ],
)
def test_contradictions(tmp_path, spec, words):
    with pytest.raises(UserError, match=words):
        bake(SYNTHETIC, TRUE, NONE, spec, tmp_path)


def test_real_noise_matches_real_images(tmp_path, data_folder):
    """Gaussian: mean and variance per channel within 1 % of CIFAR-10's, read back from the file."""
    spec = SourceSpec("cifar10", str(real(data_folder, "cifar10")), limit=2000, limit_test=500)
    plain = bake(spec, TRUE, NONE, BakeSpec(), tmp_path).splits["train"].raw_images().reshape(-1, 3).astype(float)
    noise = bake(spec, TRUE, PixelSpec("gaussian"), BakeSpec(), tmp_path)
    for beton in noise.splits.values():
        pixels = beton.raw_images().reshape(-1, 3).astype(float)
        assert np.allclose(pixels.mean(0), plain.mean(0), rtol=0.01)
        assert np.allclose(pixels.var(0), plain.var(0), rtol=0.01)


def test_real_photographs_as_jpeg(tmp_path, data_folder):
    root = real(data_folder, "imagenet_sample")
    spec = SourceSpec("imagefolder", str(root), limit=40)
    baked = bake(spec, LabelSpec("random"), NONE, BakeSpec("jpeg"), tmp_path)
    beton, source = baked.splits["train"], open_source(spec, "train")
    for row, index in enumerate(beton.columns["index"]):
        begin = int(beton.ptr[row])
        assert beton.data[begin : begin + int(beton.sizes[row])].tobytes() == source.read(int(index))


def test_a_full_disk_is_noticed_before_baking(tmp_path, monkeypatch):
    monkeypatch.setattr(bake_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="0.0 GB free and this bake needs about"):
        bake(SYNTHETIC, TRUE, NONE, BakeSpec(), tmp_path)
    assert not [p for p in (tmp_path / "baked").iterdir() if p.is_dir()]
