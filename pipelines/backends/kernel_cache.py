"""Functions that numba compiles once for all processes: their machine code, kept on disk."""

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


class _KernelFiles(NullCache):  # type: ignore[misc]  # numba has no types
    """One file for a kernel, named by all that determines its machine code, with a checksum in front.

    numba's own cache (cache=True) is an index and numbered files. A damaged one ends the process, and two processes
    that write at once can leave an index that names the other's file, whose code then runs on wrong types or the wrong
    processor. Where a file of this cache cannot be read, the kernel is compiled.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        source = Path(inspect.getfile(function)).read_bytes()  # all of the module: a kernel calls functions beside it
        self._name = function.__name__
        self._made_of = (source, sys.implementation.cache_tag, numba.__version__, llvmlite.__version__)

    def _path(self, signature: Any, codegen: Any) -> Path:
        """codegen: numba's, whose magic_tuple names the processor."""
        described = repr((signature, codegen.magic_tuple(), self._made_of)).encode()
        folder = Path(os.environ.get("NUMBA_CACHE_DIR") or cache_root() / "numba")
        return folder / f"{self._name}.{hashlib.sha256(described).hexdigest()[:32]}.kernel"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            with open(self._path(sig, target_context.codegen()), "rb") as file:
                if os.fstat(file.fileno()).st_uid != os.geteuid():  # it is code, and of another user's making
                    return None
                content = file.read()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        # All that running code needs. numba's own cache also calls refresh(), which imports what compiling needs, and
        # scipy with it: that is most of the time to a first batch.
        rtsys.initialize(target_context)
        return CompileResult._rebuild(target_context, *pickle.loads(content[32:]))

    def save_overload(self, sig: Any, cres: Any) -> None:
        path, content = self._path(sig, cres.codegen), dumps(cres._reduce())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A folder of its own, which goes with all that a failure leaves in it.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                whole = Path(folder) / path.name
                whole.write_bytes(hashlib.sha256(content).digest() + content)
                whole.chmod(0o600)
                whole.replace(path)
        except OSError as error:
            log.warning("the compiled kernel is not kept for the next process: %s", error)


def cached(function: Callable[..., None]) -> Any:
    """numba's dispatcher for `function`, cached under FASTGEN_CACHE unless NUMBA_CACHE_DIR says where."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _KernelFiles(function)
    return dispatcher
