"""The CUDA runtime that does nothing (nullcuda.cpp): where it can be built, its build, and processes that run on it."""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
_PACKAGES = Path(sysconfig.get_path("purelib"))
# Of NVIDIA's wheels, and of Triton, which has those that nvcc brings.
_HEADERS = (_PACKAGES / "nvidia" / "cu13" / "include", _PACKAGES / "triton" / "backends" / "nvidia" / "include")
# PyTorch's libraries that call CUDA's.
_LIBRARIES = ("c10_cuda", "torch_cuda", "torch_cuda_linalg", "torch_python", "caffe2_nvrtc")
_OF_CUDA = re.compile(r"(__cuda|cuda|cublas|cudnn|cusolver|cusparse|cu(?!pti|File)[A-Z])")
_MULTIPLIES = re.compile(r"cublas.*([Gg]em[mv]|trsm|Matmul$)")


def missing() -> str | None:
    """Why the runtime cannot be built here, or None."""
    if platform.system() != "Linux":
        return "nullcuda is preloaded as Linux does it"
    if Path("/dev/nvidiactl").exists():
        return "there is a real one: PyTorch asks NVML beside it, which nullcuda does not stand in for"
    if absent := [tool for tool in ("g++", "nm") if shutil.which(tool) is None]:
        return f"nullcuda needs {' and '.join(absent)}"
    needed = [_HEADERS[0] / "cuda.h", _HEADERS[0] / "cublasLt.h", _HEADERS[1] / "crt" / "host_defines.h"]
    needed.append(_PACKAGES / "torch" / "lib" / "libtorch_cuda.so")
    if absent := [path.name for path in needed if not path.is_file()]:
        return f"nullcuda needs PyTorch for CUDA 13 with NVIDIA's and Triton's wheels, which hold {', '.join(absent)}"
    return None


@dataclass
class Runtime:
    """The built runtime. folder: also of what is compiled by processes that run on it."""

    folder: Path

    @staticmethod
    def build(folder: Path) -> "Runtime":
        """Takes about 5 seconds."""
        wanted = {name for library in _LIBRARIES for name in _symbols(library) if _OF_CUDA.match(name)}
        compile_ = ["g++", "-O1", "-std=c++17", "-fPIC", *(f"-I{folder}" for folder in _HEADERS)]
        subprocess.run([*compile_, "-c", HERE / "nullcuda.cpp", "-o", folder / "specific.o"], check=True)
        wanted -= _names(folder / "specific.o", "--defined-only")
        bodies = {name: f'nullcuda_kernel("{name}"); ' if _MULTIPLIES.match(name) else "" for name in sorted(wanted)}
        generated = [f"int {name}() {{ {body}return 0; }}" for name, body in bodies.items()]
        text = "\n".join(['extern "C" {', "void nullcuda_kernel(const char *);", *generated, "}"])
        (folder / "generated.cpp").write_text(text)
        link = ["-shared", "-o", folder / "libnullcuda.so", folder / "specific.o", folder / "generated.cpp", "-ldl"]
        subprocess.run([*compile_, "-fno-builtin", *link], check=True)
        # The driver under its own name, for Triton, which links with it and loads it by that.
        for name in ("libcuda.so.1", "libcuda.so"):
            (folder / name).symlink_to("libnullcuda.so")
        return Runtime(folder)

    def environment(self, devices: int = 1) -> dict[str, str]:
        """Of a process that has so many devices."""
        folder = str(self.folder)
        paths = dict.fromkeys(("LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH"), folder)
        paths |= {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor", "TRITON_CACHE_DIR": f"{folder}/triton"}
        paths["TORCHINDUCTOR_COMPILE_THREADS"] = (
            "1"  # processes that help take longer to start than all compilations here
        )
        paths |= {"LD_PRELOAD": f"{folder}/libnullcuda.so", "PYTHONPATH": str(ROOT)}
        return {**os.environ, **paths, "NULLCUDA_DEVICES": str(devices)}

    def train(self, runs: Sequence["Run"], processes: int = 1) -> list[dict[str, Any]]:
        """What `probe.py` found in each of the runs, one after the other; of several processes, of the first.

        Raises AssertionError with a process's output where it ended otherwise.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            asked, found = Path(folder, "runs.json"), Path(folder, "found.json")
            asked.write_text(json.dumps([vars(run) for run in runs]))
            environment = self.environment(processes)
            if processes > 1:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
                environment |= meeting | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
            started = [
                subprocess.Popen(
                    [sys.executable, HERE / "probe.py", asked, found],
                    env=environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
                    cwd=folder,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                for rank in range(processes)
            ]
            try:
                for process in started:
                    output, _ = process.communicate(timeout=500)
                    assert process.returncode == 0, output[-8000:]
            finally:
                for process in started:
                    process.kill()
            return json.loads(found.read_text())


@dataclass
class Run:
    """A training: `recipe=NAME key=value ...`. large: its weights are drawn on the device, so not at all, and no
    checkpoint is written: both take seconds."""

    settings: list[str]
    large: bool = False


def _symbols(library: str) -> set[str]:
    return _names(_PACKAGES / "torch" / "lib" / f"lib{library}.so", "--dynamic", "--undefined-only")


def _names(path: Path, *options: str) -> set[str]:
    listed = subprocess.run(["nm", *options, path], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
