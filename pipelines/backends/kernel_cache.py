"""Functions that are compiled once for all processes: their machine code, kept on disk."""

import hashlib
import inspect
import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from pipelines.locations import cache_root

log = logging.getLogger(__name__)


_CHECKSUM = hashlib.sha256().digest_size


def kept(path: Path) -> bytes | None:
    """What `keep` wrote, and its checksum behind it; None where it is not there, damaged, or another user's making."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():  # it is code
                return None
            content = file.read()
    except OSError:
        return None
    return content if hashlib.sha256(content[:-_CHECKSUM]).digest() == content[-_CHECKSUM:] else None


def keep(path: Path, content: bytes) -> None:
    """Write code for other processes, whole or not at all, with a checksum behind it, which those who run it skip."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own, which goes with all that a failure leaves in it.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            whole = Path(folder) / path.name
            whole.write_bytes(content + hashlib.sha256(content).digest())
            whole.chmod(0o600)
            whole.replace(path)
    except OSError as error:
        log.warning("compiled code is not kept for the next process: %s", error)


class _KernelFiles(NullCache):  # type: ignore[misc]  # numba has no types
    """One file for a kernel, named by all that determines its machine code.

    numba's own cache (cache=True) is an index and numbered files. A damaged one ends the process, and two processes
    that write at once can leave an index that names the other's file, whose code then runs on wrong types or the wrong
    processor. Where a file of this cache cannot be read, the kernel is compiled.
    """

    def __init__(self, function: Callable[..., None], *made_of: object) -> None:
        source = Path(inspect.getfile(function)).read_bytes()  # all of the module: a kernel calls functions beside it
        self._name = function.__name__
        self._made_of = (source, *made_of, sys.implementation.cache_tag, numba.__version__, llvmlite.__version__)

    def _path(self, signature: Any, codegen: Any) -> Path:
        """codegen: numba's, whose magic_tuple names the processor."""
        described = repr((signature, codegen.magic_tuple(), self._made_of)).encode()
        folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_root() / "numba")
        return folder / f"{self._name}.{hashlib.sha256(described).hexdigest()[:32]}.kernel"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        content = kept(self._path(sig, target_context.codegen()))
        if content is None:
            return None
        # All that running code needs. numba's own cache also calls refresh(), which imports what compiling needs, and
        # scipy with it: that is most of the time to a first batch.
        rtsys.initialize(target_context)
        return CompileResult._rebuild(target_context, *pickle.loads(content))

    def save_overload(self, sig: Any, cres: Any) -> None:
        keep(self._path(sig, cres.codegen), dumps(cres._reduce()))


def cached(function: Callable[..., None], *made_of: object) -> Any:
    """numba's dispatcher for `function`, cached under FASTGEN_CACHE unless NUMBA_CACHE_DIR says where.

    made_of: what its code depends on beside its module's source and the versions of numba.
    """
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _KernelFiles(function, *made_of)
    return dispatcher
