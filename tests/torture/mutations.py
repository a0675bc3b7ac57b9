"""Every kind of file that is read, damaged: it is refused by name in one line, or means the same as before.

Files that carry hashes may never mean anything else. Others, a user's images, tables and recipes, may, as nobody can
tell: they must be read or refused, without a traceback and without a hang.
"""

import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from PIL import Image
from torture.forks import HANG, TRACEBACK
from torture.tasks import Found, Task
from whole_runs import SMALL

from fastgen import cli
from fastgen.recipe.load import load
from fastgen.recipe.schema import known_keys
from fastgen.runs.dynamics import per_sample
from fastgen.runs.folder import RunLock, choose
from fastgen.runs.run import Run
from fastgen.training import checkpoints
from fastgen.training.averaging import WeightAverage
from fastgen.training.position import Position
from pipelines.baked.bake import bake
from pipelines.baked.encoding import BakeSpec
from pipelines.baked.manifest import BakedSet
from pipelines.baked.shards import Export
from pipelines.corruptions import LabelSpec, PixelSpec, corrupt_labels
from pipelines.errors import UserError
from pipelines.sources import SourceSpec, SyntheticSpec, open_source

SAME, REFUSED, OTHER, CHANGED = "the same", "refused", "read otherwise", "silently changed"
_CHUNK = 200  # mutations of a task
_SECONDS = 30  # after which a file that is read is a hang
_NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 255, 10**9, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.5, 1e308, float("inf"),
    float("nan"), "", "x", "..", "/", "\0", "\u00e9", "1", "null", "${oc.env:HOME}", "???", [], [1], [[]], {}, {"a": 1},
    "a" * 5000,
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of file. make: writes files below a folder; digest: reads them, and says what they mean. hashed: nothing
    but what was written may be read. share: of all mutations, as a weight."""

    name: str
    make: Callable[[Path], None]
    digest: Callable[[Path], str]
    hashed: bool = False
    share: int = 1


def attack(kind: Kind, number: int, seed: int, folder: Path) -> Found:
    """`number` mutations in this process."""
    counted: Counter[str] = Counter()
    faults: list[str] = []
    whole, mutated = folder / "whole", folder / "mutated"
    whole.mkdir(parents=True)
    kind.make(whole)
    expected = kind.digest(_copy(whole, mutated))
    for trial in range(number):
        draw = random.Random(f"{kind.name} {seed} {trial}")
        what = mutate(_copy(whole, mutated), draw)
        outcome, said = _read(kind, mutated, expected)
        counted[outcome] += 1
        if outcome in (TRACEBACK, HANG) or (kind.hashed and outcome in (CHANGED, OTHER)):
            faults.append(f"{kind.name} {seed} {trial}, {what}: {outcome}: {said}")
    return counted, faults


def _copy(whole: Path, mutated: Path) -> Path:
    shutil.rmtree(mutated, ignore_errors=True)
    shutil.copytree(whole, mutated, symlinks=True)
    return mutated


class _Hang(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise _Hang


def _read(kind: Kind, folder: Path, expected: str) -> tuple[str, str]:
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(_SECONDS)
    try:
        found = kind.digest(folder)
    except UserError as error:
        return (REFUSED, "") if str(error).strip() else (TRACEBACK, "an empty message")
    except _Hang:
        return HANG, ""
    except BaseException:
        return TRACEBACK, traceback.format_exc()[-2000:]
    finally:
        signal.alarm(0)
    return (SAME, "") if found == expected else (CHANGED if kind.hashed else OTHER, "")


# ---------------------------------------------------------------- what is done to a file


def mutate(folder: Path, draw: random.Random) -> str:
    """Damage one file below `folder`; what was done, in words."""
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    name, data = path.relative_to(folder).as_posix(), path.read_bytes()
    if draw.random() < 0.06:
        done = draw.choice([_removed, _a_folder, _a_loop, _a_broken_link, _a_pipe, _swapped])
        done(path, folder, draw)
        return f"{name} {done.__name__.strip('_')}"
    text = path.suffix in (".json", ".jsonl", ".yaml", ".csv", ".txt") or path.name.startswith(".")
    ways = [_structure, _structure, _token, _line, *_OF_BYTES[:4]] if text else _OF_BYTES
    way = draw.choice(ways)
    path.write_bytes(way(data, draw))
    return f"{name} {way.__name__.strip('_')}"


def _removed(path: Path, folder: Path, draw: random.Random) -> None:
    path.unlink()


def _a_folder(path: Path, folder: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _a_loop(path: Path, folder: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _a_broken_link(path: Path, folder: Path, draw: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _a_pipe(path: Path, folder: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _swapped(path: Path, folder: Path, draw: random.Random) -> None:
    other = draw.choice(sorted(each for each in folder.rglob("*") if each.is_file()))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def _bit(data: bytes, draw: random.Random) -> bytes:
    if not data:
        return b"\1"
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _hole(data: bytes, draw: random.Random) -> bytes:
    begin, end = _range(data, draw)
    return data[:begin] + data[end:]


def _insertion(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.choice([1, 8, 500])) + data[at:]


def _zeros(data: bytes, draw: random.Random) -> bytes:
    begin, end = _range(data, draw)
    return data[:begin] + bytes(end - begin) + data[end:]


def _noise(data: bytes, draw: random.Random) -> bytes:
    begin, end = _range(data, draw)
    return data[:begin] + draw.randbytes(end - begin) + data[end:]


def _number(data: bytes, draw: random.Random) -> bytes:
    """A little-endian integer of the head or the tail, as sizes, counts and offsets are."""
    width = draw.choice([2, 4, 8])
    end = min(len(data), 4096)
    at = draw.choice([draw.randrange(max(1, end)), max(0, len(data) - draw.randrange(1, end + 1))])
    value = draw.choice([0, 1, 2**7, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data), len(data) + 1])
    return data[:at] + value.to_bytes(8, "little")[:width] + data[at + width :]


def _range(data: bytes, draw: random.Random) -> tuple[int, int]:
    begin = draw.randrange(len(data) + 1)
    return begin, min(len(data), begin + draw.choice([1, 4, 64, 4096]))


_OF_BYTES = [_bit, _cut, _hole, _insertion, _zeros, _noise, _number, _number]


def _token(data: bytes, draw: random.Random) -> bytes:
    """A number or a word becomes another."""
    found = list(re.finditer(rb"[\w.+-]+", data))
    if not found:
        return _insertion(data, draw)
    match = draw.choice(found)
    new = json.dumps(draw.choice(_NASTY)).encode()
    return data[: match.start()] + new + data[match.end() :]


def _line(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    ways = [
        lines[:at] + lines[at + 1 :], [*lines[:at], lines[other], *lines[at:]],
        [*lines[:at], lines[at][: len(lines[at]) // 2], *lines[at + 1 :]],
    ]  # fmt: skip
    return b"\n".join(draw.choice(ways))


def _structure(data: bytes, draw: random.Random) -> bytes:
    """A value, a key or an element of JSON becomes another, comes twice, or is gone."""
    try:
        value = json.loads(data)
    except ValueError:
        return _token(data, draw)
    places: list[tuple[Any, Any]] = []
    left = [value]
    while left:
        item = left.pop()
        keys: Any = item.keys() if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        places += [(item, key) for key in keys]
        left += [item[key] for key in keys]
    if not places or draw.random() < 0.05:
        return json.dumps(draw.choice(_NASTY)).encode()
    holder, key = draw.choice(places)
    way = draw.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[str(draw.choice(_NASTY))] = holder.pop(key)
    elif way == 2 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] += draw.choice([-1, 1, 0.5, 1000])
    else:
        holder[key] = draw.choice(_NASTY)
    return json.dumps(value, indent=1).encode()


# ---------------------------------------------------------------- the kinds


def _digest(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


_SOURCE = SourceSpec("synthetic", synthetic=SyntheticSpec(samples=24, test_samples=6, size=8, classes=3))


def _bake(folder: Path) -> BakedSet:
    return bake(_SOURCE, LabelSpec("random", 0.5, 1), PixelSpec(), BakeSpec(workers=1), folder)


def _make_baked(folder: Path) -> None:
    _bake(folder)


def _of_set(baked: BakedSet | Export) -> str:
    parts: list[Any] = [baked.manifest.class_names, baked.manifest.channels]
    for name, split in sorted(baked.splits.items()):
        parts += [name, *(each for pair in sorted(split.columns.items()) for each in pair)]
        parts += [split.image(row) for row in range(split.samples)]
    return _digest(*parts)


def _read_baked(folder: Path) -> str:
    """As a training finds it in its cache: what is there is used, or refused."""
    return _of_set(_bake(folder))


def _read_by_path(folder: Path) -> str:
    (path,) = [path for path in (folder / "baked").iterdir() if path.is_dir() and not path.name.startswith(".")]
    return _of_set(BakedSet.open(path, full=True))


def _make_export(folder: Path) -> None:
    baked = _bake(folder.parent / "for_export")
    command = ["export", str(baked.path), "--to", "webdataset", "--output", str(folder / "export")]
    assert cli.main(command) == 0


def _read_export(folder: Path) -> str:
    return _of_set(Export.open(folder / "export", full=True))


class _Tiny:
    """A network with an optimizer and an average, as a checkpoint holds them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True)
        self.network = torch.nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.1, momentum=0.9)
        self.states = {"optimizer": self.optimizer, "average": WeightAverage(self.network, 0.9)}

    def step(self) -> "_Tiny":
        self.network(torch.ones(1, 3)).sum().backward()
        self.optimizer.step()
        return self


def _make_checkpoint(folder: Path) -> None:
    tiny = _Tiny().step()
    checkpoints.save(tiny.accelerator, folder, Position(steps_per_epoch=2, step=1), 2, tiny.network, tiny.states)


def _read_checkpoint(folder: Path) -> str:
    tiny, found = _Tiny(), checkpoints.latest(folder)
    if found is None:
        raise UserError("there is none")
    position = checkpoints.restore(tiny.accelerator, found, tiny.network, tiny.states)
    state = tiny.optimizer.state_dict()
    weights = [value.numpy() for value in tiny.network.state_dict().values()]
    moments = [value["momentum_buffer"].numpy() for value in state["state"].values()]
    return _digest(position, *weights, *moments, torch.rand(1).numpy())


_RUN = ["data.source=synthetic", *SMALL[1:], "train.threads=1", "train.epochs=2", "train.dynamics=true"]


def _make_run(folder: Path) -> None:
    os.environ["FASTGEN_CACHE"] = str(folder.parent / "cache")
    assert cli.main(["train", "recipe=quickstart", *_RUN, f"run.dir={folder}"]) == 0
    shutil.rmtree(folder / "checkpoints")


def _read_run(folder: Path) -> str:
    """As reports, sweeps and resumes read it."""
    run = Run(folder)
    parts = [run.settings, run.summary, run.lines, run.manifest, run.labels, run.changes, run.command, run.parts]
    parts += [run.curve(key, "epoch") for key in run.parts]
    with RunLock() as lock:
        choose(load("quickstart", [*_RUN, f"run.dir={folder}", "run.resume=true"]), lock)
    return _digest(*parts, *(column.to_numpy() for column in per_sample(folder).columns))


def _read_report(folder: Path) -> str:
    page = folder.parent / "page.html"
    if cli.main(["report", str(folder), "--output", str(page)]):
        raise UserError("refused")
    return _digest(page.read_bytes())


def _make_notes(folder: Path) -> None:
    """A bake that was stopped between its two files and in the middle of the second."""
    child = os.fork()
    if child == 0:
        from pipelines.baked import bake as module

        encoded = module.encoded

        def stops(source: Any, *rest: Any) -> Any:
            for number, one in enumerate(encoded(source, *rest)):
                if len(source) == 6 and number == 3:
                    os._exit(0)
                yield one

        module.encoded = stops
        _bake(folder)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _make_images(folder: Path) -> None:
    draw = np.random.default_rng(0)
    smooth = np.kron(draw.integers(0, 256, (3, 4, 3)), np.ones((5, 6, 1))).astype(np.uint8)
    for mode in ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK", "I;16", "I", "F"):
        image = Image.fromarray(smooth)
        image = Image.fromarray(smooth[..., 0].astype(np.uint16) * 256) if mode == "I;16" else image.convert(mode)
        for suffix in ("png", "jpg", "tif", "webp", "bmp", "ppm", "gif"):
            out = io.BytesIO()
            try:
                image.save(out, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
            except (OSError, ValueError, KeyError):
                continue  # this format has no such mode
            place = folder / f"class_{len(mode) % 2}" / f"{mode.replace(';', '_')}.{suffix}"
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(out.getvalue())


def _of_source(kind: str, root: Path, **more: Any) -> str:
    source = open_source(SourceSpec(kind, str(root), **more), "train")
    assert source is not None
    parts: list[Any] = [source.labels, source.class_names]
    for index in range(len(source)):
        try:
            parts.append(source.image(index))
        except UserError as error:
            parts.append(str(error))
    return _digest(*parts)


def _read_images(folder: Path) -> str:
    return _of_source("imagefolder", folder)


def _make_parquet(folder: Path) -> None:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(out, "PNG")
    image = {"bytes": out.getvalue(), "path": None}
    names = {"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}
    for shard in range(2):
        table = pa.table({"image": [image] * 6, "label": [0, 1, 2] * 2})
        table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
        pq.write_table(table, folder / f"train-{shard:05d}-of-00002.parquet", row_group_size=4)


def _read_parquet(folder: Path) -> str:
    return _of_source("parquet", folder)


_TRUE = np.arange(12) % 3


def _make_tables(folder: Path) -> None:
    values = _TRUE[::-1].copy()
    np.save(folder / "a.npy", values)
    np.savez(folder / "b.npz", label=values, other=values)
    (folder / "c.json").write_text(json.dumps(values.tolist()))
    (folder / "d.csv").write_text("index,label\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))
    pq.write_table(pa.table({"index": np.arange(12), "label": values}), folder / "e.parquet")
    torch.save({"label": torch.from_numpy(values)}, folder / "f.pt")


def _read_tables(folder: Path) -> str:
    parts: list[Any] = []
    for path in sorted(folder.iterdir()):
        try:
            parts.append(corrupt_labels(LabelSpec("table", file=str(path), column="label"), _TRUE, 3))
        except UserError as error:
            parts.append(str(error))
    return _digest(*parts)


def _make_recipes(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(load("quickstart").to_yaml())
    (folder / "small.yaml").write_text("base: quickstart\nseed: 3\ndata: {limit: 50, labels: {kind: random, p: 0.5}}\n")


def _read_recipes(folder: Path) -> str:
    return _digest(*(load(str(folder / name)).to_yaml() for name in ("recipe.yaml", "small.yaml")))


def _make_settings(folder: Path) -> None:
    settings = [f"{key}={json.dumps(value)}" for key, value in known_keys().items()]
    (folder / "settings.txt").write_text("\n".join(random.Random(0).sample(settings, 12)))


def _read_settings(folder: Path) -> str:
    path = folder / "settings.txt"
    if not path.is_file() or path.is_symlink():
        raise UserError("a command line is no file")
    settings = path.read_bytes().decode(errors="surrogateescape").split("\n")
    return _digest(load("quickstart", [one for one in settings if one]).to_yaml())


KINDS = [
    Kind("a set in the cache", _make_baked, _read_baked, hashed=True, share=6),
    Kind("a set by its path", _make_baked, _read_by_path, hashed=True, share=4),
    Kind("a bake that was stopped", _make_notes, _read_baked, hashed=True, share=2),
    Kind("an export", _make_export, _read_export, hashed=True, share=4),
    Kind("a checkpoint", _make_checkpoint, _read_checkpoint, hashed=True, share=4),
    Kind("a run directory", _make_run, _read_run, share=3),
    Kind("a report", _make_run, _read_report, share=1),
    Kind("images", _make_images, _read_images, share=4),
    Kind("parquet", _make_parquet, _read_parquet, share=4),
    Kind("label tables", _make_tables, _read_tables, share=4),
    Kind("recipes", _make_recipes, _read_recipes, share=2),
    Kind("settings", _make_settings, _read_settings, share=3),
]


def tasks(number: int, seed: int) -> list[Task]:
    """About `number` mutations over all kinds, by their shares."""
    total, found = sum(kind.share for kind in KINDS), []
    for kind in KINDS:
        mine = round(number * kind.share / total)
        for part, begin in enumerate(range(0, mine, _CHUNK)):
            work = partial(attack, kind, min(_CHUNK, mine - begin), seed * 1000 + part)
            found.append(Task("mutations", kind.name, work))
    return found
