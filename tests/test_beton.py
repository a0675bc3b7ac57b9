"""The .beton file: what we write FFCV reads, what FFCV writes we read, and damage does not pass."""

import contextlib

import numpy as np
import pytest
from plain_ffcv import KEPT

from pipelines.baked.beton import JPEG, RAW, Beton
from pipelines.baked.writer import Writer, add_columns
from pipelines.errors import UserError

RNG = np.random.default_rng(0)
N, SIDE = 500, 16
IMAGES = RNG.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
COLUMNS = {
    "clean_label": RNG.integers(0, 10, N),
    "index": RNG.permutation(N),
    "exactly16bytes_x": RNG.integers(-5, 2**40, N),
}
SMALL_PAGE = 1 << 13  # ten images a page


def write(path, page=SMALL_PAGE, images=IMAGES, columns=COLUMNS):
    with Writer(path, len(images), columns, page) as writer:
        for image in images:
            writer.append(image, RAW, SIDE, SIDE)
        return writer.finish()


@pytest.mark.parametrize("page", [1 << 10, SMALL_PAGE, 1 << 23])
def test_round_trip(tmp_path, page):
    hashes = write(tmp_path / "a.beton", page)
    beton = Beton(tmp_path / "a.beton")
    assert np.array_equal(beton.raw_images(), IMAGES)
    assert {k: v.tolist() for k, v in beton.columns.items()} == {k: v.tolist() for k, v in COLUMNS.items()}
    assert (beton.mode == RAW).all() and beton.fixed_size == (SIDE, SIDE) and (beton.sizes == 768).all()
    assert beton.hashes() == hashes and np.array_equal(beton.image(7), IMAGES[7])
    # No image crosses a page.
    assert (beton.ptr // page == (beton.ptr + beton.sizes - 1) // page).all()


@pytest.mark.parametrize("page", [SMALL_PAGE, 1 << 23])
@pytest.mark.parametrize("os_cache", [True, False])
def test_plain_ffcv_reads_it(tmp_path, page, os_cache):
    pytest.importorskip("ffcv")
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    write(tmp_path / "a.beton", page)
    fields = {"image": [SimpleRGBImageDecoder()], **{name: [IntDecoder()] for name in COLUMNS}}
    loader = Loader(
        str(tmp_path / "a.beton"), batch_size=64, num_workers=1, os_cache=os_cache, order=OrderOption.RANDOM,
        seed=1, drop_last=False, pipelines=fields,
    )  # fmt: skip
    KEPT.append(loader)
    row_of = np.argsort(COLUMNS["index"])
    seen = 0
    for image, clean, index, other in loader:
        rows = row_of[index[:, 0]]
        assert np.array_equal(image, IMAGES[rows])
        assert np.array_equal(clean[:, 0], COLUMNS["clean_label"][rows])
        assert np.array_equal(other[:, 0], COLUMNS["exactly16bytes_x"][rows])
        seen += len(rows)
    assert seen == N


def test_ffcvs_own_files_are_read(tmp_path):
    pytest.importorskip("ffcv")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    class Items:
        def __len__(self):
            return 60

        def __getitem__(self, i):
            return IMAGES[i], int(COLUMNS["clean_label"][i])

    writer = DatasetWriter(str(tmp_path / "f.beton"), {"image": RGBImageField(), "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset(Items(), chunksize=10)
    beton = Beton(tmp_path / "f.beton")
    assert np.array_equal(beton.raw_images(), IMAGES[:60])
    assert np.array_equal(beton.columns["label"], COLUMNS["clean_label"][:60])


def test_columns_are_added_without_touching_the_payload(tmp_path):
    hashes = write(tmp_path / "a.beton")
    more = {f"column{i}": RNG.integers(0, 10, N) for i in range(30)}  # pushes the payload to later pages
    table = add_columns(Beton(tmp_path / "a.beton"), tmp_path / "b.beton", more)
    beton = Beton(tmp_path / "b.beton")
    assert beton.payload_start > Beton(tmp_path / "a.beton").payload_start
    assert beton.hashes().payload == hashes.payload and beton.hashes().table == table != hashes.table
    assert np.array_equal(beton.raw_images(), IMAGES)
    assert all(np.array_equal(beton.columns[k], v) for k, v in {**COLUMNS, **more}.items())


def test_a_file_that_is_replaced_is_read_on_as_it_was(tmp_path):
    """Another run may add columns between opening and streaming, which can move the images."""
    write(tmp_path / "a.beton")
    opened = Beton(tmp_path / "a.beton")
    add_columns(opened, tmp_path / "b.beton", {f"column{i}": RNG.integers(0, 10, N) for i in range(30)})
    (tmp_path / "b.beton").rename(tmp_path / "a.beton")
    again = Beton(tmp_path / "a.beton")
    assert again.ptr[3] != opened.ptr[3]
    assert np.array_equal(opened.image(3), IMAGES[3]) and np.array_equal(again.image(3), IMAGES[3])


def test_where_no_file_can_be_mapped(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(19, "No such device")

    hashes = write(tmp_path / "a.beton")
    monkeypatch.setattr(np, "memmap", refuse)
    beton = Beton(tmp_path / "a.beton")
    assert beton.hashes() == hashes  # can be checked and copied
    with pytest.raises(UserError, match="maps no files; have it copied to a local disk .data.stage"):
        beton.image(0)


@pytest.mark.parametrize("where", ["header", "field", "label", "image pointer", "gap", "pixel", "allocation"])
def test_a_flipped_bit_changes_a_hash(tmp_path, where):
    path = tmp_path / "a.beton"
    hashes = write(path)
    beton = Beton(path)
    record = beton.metadata.dtype.itemsize
    head = 24 + 4 * 1041
    at = {
        "header": 20, "field": 24 + 3, "label": head + 5 * record + 16, "image pointer": head + 5,
        "gap": beton.payload_start - 1, "pixel": beton.payload_start + 12345, "allocation": beton.table_ptr + 100,
    }[where]  # fmt: skip
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    with contextlib.suppress(UserError):  # found even earlier
        assert Beton(path).hashes() != hashes


def test_unfinished_cut_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.beton"
    unfinished = tmp_path / "unfinished.beton"
    with Writer(unfinished, N, COLUMNS, SMALL_PAGE) as writer:
        for image in IMAGES[:300]:
            writer.append(image, RAW, SIDE, SIDE)
    with pytest.raises(UserError, match="not a finished|cut short"):
        Beton(unfinished)
    write(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut short"):
        Beton(path)
    path.write_bytes(b"something else" * 100)
    with pytest.raises(UserError, match="not a finished"):
        Beton(path)
    with pytest.raises(UserError, match="no such file"):
        Beton(tmp_path / "nowhere.beton")


def test_names_and_sizes_are_checked(tmp_path):
    with pytest.raises(UserError, match="1 to 16 bytes"):
        write(tmp_path / "a", columns={"seventeen_letters": COLUMNS["index"]})
    with pytest.raises(UserError, match="must differ"):
        write(tmp_path / "a", columns={"image": COLUMNS["index"]})
    with pytest.raises(UserError, match="more than a page"):
        write(tmp_path / "a", page=512)
    with Writer(tmp_path / "a", 1, {"index": np.zeros(1, int)}, 512) as writer, pytest.raises(UserError, match="page"):
        writer.append(bytes(513), JPEG, 8, 8)


@pytest.mark.parametrize("at", range(0, 24))
@pytest.mark.parametrize("value", [0, 255])
def test_a_damaged_header_is_a_clear_error(tmp_path, at, value):
    """Every byte of the header in turn: the same numbers, or an error that names the file."""
    path = tmp_path / "a.beton"
    write(path)
    content = bytearray(path.read_bytes())
    if content[at] == value:
        return
    content[at] = value
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert np.array_equal(Beton(path).raw_images(), IMAGES)


def test_addresses_and_sizes_are_checked(tmp_path):
    path = tmp_path / "a.beton"
    write(path)
    beton = Beton(path)
    content = bytearray(path.read_bytes())
    size_of_row_5 = beton.table_ptr + 5 * 24 + 16
    content[size_of_row_5 : size_of_row_5 + 8] = (10**9).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="row 5 lies nowhere"):
        Beton(path)
