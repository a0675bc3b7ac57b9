"""Functions that numba compiles once for all processes: their machine code, kept on disk."""

import hashlib
import logging
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from pipelines.locations import cache_root

log = logging.getLogger(__name__)


class _KernelFiles:
    """numba's cache files (numba.core.caching.IndexDataCacheFile), with one file for a kernel and a checksum in it.

    numba's own are an index and a data file: a damaged one ends the process, and two processes that write at once
    can leave an index that names the other's kernel. A file here is named by all that determines the machine code
    (signature, processor, bytecode, source file's stamp, versions of numba and llvmlite); what cannot be read or
    written is compiled.
    """

    def __init__(self, folder: str, name: str, stamp: Any) -> None:
        self._folder, self._name, self._stamp = Path(folder), name, stamp

    def _path(self, key: Any) -> Path:
        identity = hashlib.sha256(
            repr((key, self._stamp, numba.__version__, llvmlite.__version__)).encode()
        ).hexdigest()[:32]
        return self._folder / f"{self._name}.{identity}.kernel"

    def load(self, key: Any) -> Any:
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        return pickle.loads(content[32:])

    def save(self, key: Any, data: Any) -> None:
        content = dumps(data)
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                file.write(hashlib.sha256(content).digest() + content)
            os.replace(file.name, self._path(key))
        except OSError as error:
            log.warning("the compiled kernel is not kept for the next process: %s", error)

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._name}.*.kernel"):
            path.unlink(missing_ok=True)


def cached(function):  # type: ignore[no-untyped-def]
    """numba's dispatcher for `function`, cached under FASTGEN_CACHE unless NUMBA_CACHE_DIR says where.

    Where no folder can be written to, it is compiled in each process.
    """
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    before = numba.config.CACHE_DIR
    if not os.environ.get("NUMBA_CACHE_DIR"):
        numba.config.CACHE_DIR = str(cache_root() / "numba")
    try:
        cache = FunctionCache(function)
        cache._cache_file = _KernelFiles(
            cache.cache_path, cache._impl.filename_base, cache._impl.locator.get_source_stamp()
        )
        dispatcher._cache = cache
    except (RuntimeError, OSError, AttributeError) as error:  # no folder can be written, or numba has changed inside
        log.warning("FFCV's kernel is compiled in every process: %s", error)
    finally:
        numba.config.CACHE_DIR = before
    return dispatcher
