"""What is carried to a GPU machine without a network comes out there as it was; what was damaged is named."""

import os
import runpy
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import real

ROOT = Path(__file__).parent.parent
LIMIT = 40_000


@pytest.fixture(scope="module")
def pack():
    return runpy.run_path(str(ROOT / "benchmarks/gpu/pack.py"))


@pytest.fixture
def packed(pack, tmp_path):
    """The folders of two bundles: one compressed, one stored in several pieces."""
    tree = tmp_path / "site_tree/site/package"
    tree.mkdir(parents=True)
    (tree / "__init__.py").write_text("answer = 42\n")
    (tree / "program").write_text("#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    images = tmp_path / "data_tree/data/cifar10"
    images.mkdir(parents=True)
    (images / "train.parquet").write_bytes(bytes(index * index // 7 % 251 for index in range(100_000)))
    folders = pack["Folders"](tmp_path / "packed", LIMIT)
    folders.add("site", tmp_path / "site_tree")
    folders.add("cifar10", tmp_path / "data_tree")
    folders.finish()
    return tmp_path / "packed"


def unpack(*arguments: Path) -> tuple[int, list[str], str]:
    command = [sys.executable, str(ROOT / "benchmarks/gpu/unpack.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr.strip()


def test_pieces_come_in_any_order(packed, tmp_path):
    target = tmp_path / "there"
    folders = sorted(packed.iterdir())
    assert [sum(piece.stat().st_size for piece in folder.glob("*.[0-9]")) for folder in folders[:2]] == [LIMIT, LIMIT]
    assert {piece.name for folder in folders for piece in folder.glob("*.[0-9]")} == {
        "site.0", "cifar10.0", "cifar10.1", "cifar10.2"
    }  # fmt: skip
    assert unpack(folders[2], target) == (0, ["site: 0 of 1 pieces", "cifar10: 1 of 3 pieces"], "")
    assert unpack(folders[0], target) == (0, ["site: unpacked", "cifar10: 2 of 3 pieces"], "")
    assert unpack(folders[1], target) == (0, ["site: unpacked", "cifar10: unpacked"], "")
    for made in ("site", "data"):
        original = tmp_path / f"{made}_tree"
        for path in original.rglob("*.*"):
            assert (target / path.relative_to(original)).read_bytes() == path.read_bytes()
    assert (target / "site/package/program").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in (target / "pieces").iterdir() if path.suffix != ".unpacked"] == []
    ask = f". {target}/env.sh && cd / && '{sys.executable}' -c 'import package, fastgen, os; " \
        "print(package.answer, fastgen.__file__, os.environ[\"FASTGEN_DATA\"])'"  # fmt: skip
    said = subprocess.run(["sh", "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["42", str(ROOT / "fastgen/__init__.py"), str(target / "data")]


def test_a_damaged_piece_is_named_and_comes_again(packed, tmp_path):
    target = tmp_path / "there"
    folders = sorted(packed.iterdir())
    piece = folders[1] / "cifar10.1"
    content = piece.read_bytes()
    piece.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    state = ["site: unpacked", "cifar10: 2 of 3 pieces"]
    code, said, error = unpack(*folders, target)
    assert (code, said[-2:], error) == (1, state, f"damaged, bring again: {piece}")
    assert not (target / "data").exists()
    piece.write_bytes(content)
    assert unpack(folders[1], target) == (0, ["site: unpacked", "cifar10: unpacked"], "")


def test_only_one_gpus_code_stays_in_a_library(pack, tmp_path):
    def part(kind: int, architecture: int) -> bytes:
        header = struct.pack("<HHIQ", kind, 0x101, 64, 800) + bytes(12) + struct.pack("<I", architecture) + bytes(32)
        return header + bytes([kind * 100 + architecture % 50]) * 800

    parts = {(kind, architecture): part(kind, architecture) for kind in (2, 1) for architecture in (75, 90, 120)}
    fatbin = b"".join(parts.values())
    fatbin = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(fatbin)) + fatbin
    host = bytes(range(256)) * 4096
    library = tmp_path / "library.so.1"
    library.write_bytes(host + fatbin + host + fatbin)
    pack["blank_other_gpus"](library, 90)
    kept = [code if key == (2, 90) else code[:64] + bytes(800) for key, code in parts.items()]
    expected = fatbin[:16] + b"".join(kept)
    assert library.read_bytes() == host + expected + host + expected


@pytest.mark.slow
def test_a_step_for_a_gpu_runs_at_a_scale_that_says_nothing(data_folder, tmp_path):
    """What comes back of it: logs, figures and runs, without their checkpoints."""
    real(data_folder, "cifar10")
    environment = {**os.environ, "PYTHON": sys.executable, "ON_A_GPU_DRY": "1", "PYTHONPATH": str(ROOT)}
    command = ["sh", "benchmarks/on_a_gpu.sh", str(tmp_path / "out"), "overfit"]
    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    assert "exit code 0" in said
    with tarfile.open(tmp_path / "out" / "figures.tar.gz") as archive:
        names = archive.getnames()
    assert "./overfit.log" in names and any(name.endswith("/summary.json") for name in names)
    assert not any("checkpoints" in name for name in names) and list((tmp_path / "out").rglob("model.safetensors"))
