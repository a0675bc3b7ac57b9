"""Every corruption: what it changes, that it depends on (seed, operation, index) alone, and its errors."""

import hashlib

import numpy as np
import pytest
import torch

from pipelines.corruptions import LABELS, PIXELS, LabelSpec, PixelSpec, Statistics, corrupt_labels, pixel_corruption
from pipelines.corruptions.pixels import clipped_normal
from pipelines.errors import UserError
from pipelines.view.augment import center_crop

N, K = 20_000, 10
CLEAN = np.random.default_rng(0).integers(0, K, N)
LEVELS = {"true": None, "random": 1.0, "partial": 0.3, "symmetric": 0.3, "pair": 0.3, "rademacher": None}
STATISTICS = Statistics((125.3, 122.9, 113.9), (63.0, 62.1, 66.7))
IMAGE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_registries():
    assert set(LABELS) == {*LEVELS, "table"}
    assert set(PIXELS) == {"none", "shuffled", "random", "gaussian", "patches"}


@pytest.mark.parametrize("kind", LEVELS)
def test_labels_are_a_function_of_seed_and_index(kind):
    spec = LabelSpec(kind, LEVELS[kind], seed=3)
    given = corrupt_labels(spec, CLEAN, K)
    assert given.dtype == np.int64 and given.min() >= 0 and given.max() < K
    # A sample's label does not depend on how many others there are.
    assert np.array_equal(corrupt_labels(spec, CLEAN[:777], K), given[:777])
    if kind != "true":
        assert not np.array_equal(corrupt_labels(LabelSpec(kind, LEVELS[kind], seed=4), CLEAN, K), given)


@pytest.mark.parametrize(
    "kind, p, changed",
    [("true", None, 0), ("random", None, 0.9), ("random", 0.5, 0.45), ("partial", 0.3, 0.27), ("symmetric", 0.3, 0.3),
     ("symmetric", 1.0, 1.0), ("pair", 0.45, 0.45), ("partial", 0.0, 0.0)],
)  # fmt: skip
def test_fraction_of_changed_labels(kind, p, changed):
    given = corrupt_labels(LabelSpec(kind, p), CLEAN, K)
    deviation = np.sqrt(changed * (1 - changed) / N)
    assert abs((given != CLEAN).mean() - changed) <= 4 * deviation


@pytest.mark.parametrize("kind", ["partial", "symmetric", "pair"])
def test_levels_nest(kind):
    low, high = (corrupt_labels(LabelSpec(kind, p), CLEAN, K) for p in (0.2, 0.4))
    corrupted = low != CLEAN
    assert corrupted.any() and np.array_equal(low[corrupted], high[corrupted])


def test_random_labels_are_uniform_and_independent_of_the_true_ones():
    given = corrupt_labels(LabelSpec("random"), CLEAN, K)
    table = np.zeros((K, K))
    np.add.at(table, (CLEAN, given), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / N
    chi_squared = ((table - expected) ** 2 / expected).sum()
    assert chi_squared < 126  # 81 degrees of freedom: beyond it once in a thousand


def test_rademacher_signs_are_fair_and_say_nothing_of_the_class():
    signs = corrupt_labels(LabelSpec("rademacher"), CLEAN, K)
    assert set(np.unique(signs)) == {0, 1}
    # Within each class too, to four standard deviations.
    for k in range(K):
        mine = signs[k == CLEAN]
        assert abs(mine.mean() - 0.5) < 4 * 0.5 / len(mine) ** 0.5
    assert LabelSpec("rademacher").classes(K) == 2 and LabelSpec("random").classes(K) == K


def test_pair_flips_to_the_next_class():
    given = corrupt_labels(LabelSpec("pair", 1.0), CLEAN, K)
    assert np.array_equal(given, (CLEAN + 1) % K)


def test_equal_labellings_share_a_column_and_others_do_not():
    assert LabelSpec("random").column_name == LabelSpec("partial", 1.0).column_name
    names = [LabelSpec(k, p, s).column_name for k in ("random", "symmetric", "pair") for p in
             (0.1, 0.25, 1 / 3, 0.123456, 0.1234567) for s in (0, 1, 123456789)]  # fmt: skip
    assert len(set(names)) == len(names) and all(len(name.encode()) <= 16 for name in names)


@pytest.mark.parametrize(
    "spec, words",
    [
        (LabelSpec("randm"), "did you mean 'random'"),
        (LabelSpec("partial"), "needs data.labels.p"),
        (LabelSpec("partial", 1.5), "0 to 1"),
        (LabelSpec("true", 0.5), "no effect"),
        (LabelSpec("rademacher", 0.5), "no effect"),
        (LabelSpec("table"), "data.labels.file"),
        (LabelSpec("random", file="x.npy"), "go together"),
        (LabelSpec("random", column="x"), "only used"),
        (LabelSpec("table", file="nowhere.npy"), "does not exist"),
    ],
)
def test_label_errors(spec, words):
    with pytest.raises(UserError, match=words):
        spec.column_name  # noqa: B018 (resolves and checks)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".parquet", ".pt"])
def test_table_of_labels(tmp_path, suffix):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    noisy = (CLEAN + 3) % K
    path = tmp_path / f"noise{suffix}"
    columns = {"clean_label": CLEAN, "worse_label": noisy}
    if suffix == ".npy":
        np.save(path, noisy)
    elif suffix == ".npz":
        np.savez(path, **columns)
    elif suffix == ".pt":
        torch.save(columns, path)
    else:
        write = pyarrow.csv.write_csv if suffix == ".csv" else pyarrow.parquet.write_table
        write(pa.table(columns), path)
    spec = LabelSpec("table", file=str(path))
    assert np.array_equal(corrupt_labels(spec, CLEAN, K), noisy)
    assert spec.column_name.startswith("table_")
    if suffix != ".npy":  # a table that knows its clean labels notices another order
        with pytest.raises(UserError, match="another order"):
            corrupt_labels(spec, np.roll(CLEAN, 1), K)


@pytest.mark.parametrize("kind", tuple(PIXELS))
def test_pixels_are_a_function_of_seed_and_index(kind):
    def applied(seed, split="train", index=5):
        return pixel_corruption(PixelSpec(kind, seed), split, STATISTICS)(IMAGE, index)

    first = applied(0)
    assert first.shape == IMAGE.shape and first.dtype == np.uint8
    assert np.array_equal(first, applied(0))
    if kind == "none":
        assert np.array_equal(first, IMAGE)
        return
    assert not np.array_equal(first, IMAGE)
    assert not np.array_equal(first, applied(1))
    # One permutation for all images of both sets, or one for each image.
    assert np.array_equal(first, applied(0, index=6)) == (kind == "shuffled")
    assert np.array_equal(first, applied(0, split="val")) == (kind == "shuffled")


@pytest.mark.parametrize("kind", ["shuffled", "random", "patches"])
def test_permutations_keep_every_pixel(kind):
    changed = pixel_corruption(PixelSpec(kind), "train")(IMAGE, 0)
    rows = [sorted(map(tuple, image.reshape(-1, 3).tolist())) for image in (IMAGE, changed)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kind", ["shuffled", "random", "patches"])
@pytest.mark.parametrize("side", [28, 32, 16, 27, 30])
def test_a_window_is_what_is_shown_and_permuted_as_if_cropped_before(kind, side):
    patch = 4 if side % 4 == 0 else side  # of one patch: nothing moves
    spec = PixelSpec(kind, seed=3, patch=patch, before_crop=False, window=side)
    whole = PixelSpec(kind, seed=3, patch=patch)
    changed = pixel_corruption(spec, "train")(IMAGE, 7)

    def shown(image):
        pixels = center_crop(torch.from_numpy(image).permute(2, 0, 1)[None], side)[0]
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())

    assert np.array_equal(shown(changed), pixel_corruption(whole, "train")(shown(IMAGE), 7))
    rows = [sorted(map(tuple, shown(image).reshape(-1, 3).tolist())) for image in (IMAGE, changed)]
    assert rows[0] == rows[1] and (patch == side and kind == "patches") == np.array_equal(changed, IMAGE)
    # Outside nothing changes.
    differs = (changed != IMAGE).any(-1)
    first, last = round((32 - side) / 2.0), round((32 - side) / 2.0) + side
    assert not differs[:first].any() and not differs[last:].any()
    assert not differs[:, :first].any() and not differs[:, last:].any()


def test_before_the_crop_pixels_come_in_from_the_border():
    """Why the order matters: nearly a quarter of what is shown then is what the crop would have cut off."""
    inside = np.zeros((32, 32, 3), np.uint8)
    inside[2:30, 2:30] = 1
    share = {}
    for before_crop, window in ((True, None), (False, 28)):
        apply = pixel_corruption(PixelSpec("random", before_crop=before_crop, window=window), "train")
        share[before_crop] = np.mean([apply(inside, i)[2:30, 2:30].mean() for i in range(50)])
    assert share[False] == 1 and share[True] == pytest.approx(28 * 28 / (32 * 32), abs=0.01)


def test_a_window_follows_from_the_recipe():
    spec = PixelSpec("random", before_crop=False)
    assert spec.resolved(28) == spec.resolved(28).resolved() == PixelSpec("random", before_crop=False, window=28)
    assert spec.resolved(28).resolved(24).window == 24
    assert spec.resolved(28).described() == {"kind": "random", "seed": 0, "patch": 4, "window": 28}
    # A set without one has the specification, and so the name, that it had before there were windows.
    assert PixelSpec("random", seed=2).described() == {"kind": "random", "seed": 2, "patch": 4}
    assert PixelSpec("gaussian", before_crop=False).resolved(28) == PixelSpec("gaussian")
    with pytest.raises(UserError, match="needs data.image_size"):
        spec.resolved()
    with pytest.raises(UserError, match="before_crop=false"):
        PixelSpec("random", window=28).resolved()
    with pytest.raises(UserError, match="the images have 32x32 pixels"):
        pixel_corruption(spec.resolved(33), "train")(IMAGE, 0)


@pytest.mark.parametrize(
    "kind, digest",
    [
        ("shuffled", "4aa0235b52b7065f"),
        ("random", "91f8317cd0716af7"),
        ("patches", "ba083376ccca6b3b"),
        ("gaussian", "2179876f88235e1c"),
    ],
)
def test_corruptions_are_what_they_were(kind, digest):
    changed = pixel_corruption(PixelSpec(kind, seed=3), "train", STATISTICS)(IMAGE, 7)
    assert hashlib.sha256(changed.tobytes()).hexdigest()[:16] == digest


def test_patches_stay_whole():
    image = np.repeat(np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8), 4, 0), 4, 1)[..., None].repeat(3, 2)
    changed = pixel_corruption(PixelSpec("patches", patch=4), "train")(image, 0)
    tiles = changed.reshape(8, 4, 8, 4, 3).swapaxes(1, 2).reshape(64, -1)
    assert (tiles == tiles[:, :1]).all() and sorted(tiles[:, 0].tolist()) == list(range(64))
    with pytest.raises(UserError, match="does not divide"):
        pixel_corruption(PixelSpec("patches", patch=5), "train")(image, 0)


# CIFAR-10, MNIST, an even spread, dark and flat
@pytest.mark.parametrize(
    "mean, std", [(125.3, 63.0), (113.9, 66.7), (33.3, 78.6), (127.5, 73.6), (10.0, 3.0), (7, 0.5)]
)
def test_gaussian_matches_mean_and_variance_after_clipping(mean, std):
    noise = pixel_corruption(PixelSpec("gaussian"), "train", Statistics((mean,) * 3, (std,) * 3))
    pixels = np.stack([noise(IMAGE, index) for index in range(500)]).astype(float).reshape(-1, 3)
    assert np.allclose(pixels.mean(0), mean, rtol=0.01)
    assert np.allclose(pixels.var(0), std**2, rtol=0.01)


def test_gaussian_of_a_gray_set_is_gray():
    noise = pixel_corruption(PixelSpec("gaussian"), "train", Statistics((33.3,) * 3, (78.6,) * 3, channels=1))
    image = noise(IMAGE, 0)
    assert (image == image[:, :, :1]).all()


def test_impossible_noise_is_refused():
    assert clipped_normal(100.0, 0.0) == (100.0, 0.0)
    with pytest.raises(UserError, match="cannot match"):
        clipped_normal(127.5, 130.0)  # more than half black, half white
