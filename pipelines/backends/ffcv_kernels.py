"""FFCV imported without its ten seconds, and its generated kernels kept on disk.

FFCV makes its kernels as closures and has numba compile them in every process; numba's own cache refuses them
because they hold ctypes pointers, and its keys leave out constants, options and what a closure calls. Here
FFCV's three C functions become symbols with names, and a kernel is filed under a fingerprint of all that
determines its machine code: the bytecode and constants of the function and of everything it calls, the values
it closes over, the compiler's options, the signature, the processor, and the versions of all parts. One file
holds one kernel, so processes that compile at the same time write the same file or different ones.

Source: ffcv/pipeline/compiler.py and ffcv/libffcv.py of FFCV 1.0.2; numba/core/caching.py of numba 0.68.
Where either has changed its insides, kernels are compiled as FFCV does it, and a warning says so.
"""

import contextlib
import importlib.metadata
import importlib.util
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch

from pipelines.registry import UserError

log = logging.getLogger(__name__)

_INSTALL = "apt-get install libopencv-dev libturbojpeg0-dev pkg-config g++, then pip install 'fastgen[ffcv]'"


@contextlib.contextmanager
def threads_kept() -> Iterator[None]:
    """FFCV sets torch's and numba's thread counts when it is imported and when a Loader is made; put them back."""
    import numba

    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def import_ffcv() -> None:
    """Import FFCV; afterwards `import ffcv` costs nothing.

    Raises UserError where it is not installed, and where it is but cannot be imported (with the reason).
    """
    if "ffcv.loader" in sys.modules:
        return
    if importlib.util.find_spec("ffcv") is None:
        raise UserError(f"data.backend=ffcv needs the package ffcv, which is not installed: {_INSTALL}")
    try:
        import numba.typed

        if importlib.util.find_spec("distutils") is None:  # Python 3.12; FFCV imports it and does not use it
            sys.modules["distutils.log"] = types.ModuleType("distutils.log")
            sys.modules["distutils.log"].warn = None  # type: ignore[attr-defined]
            sys.modules["distutils"] = types.ModuleType("distutils")
        # rgb_image.py fills a numba Dict with two constants, which compiles it: half of the import's time. They
        # are only ever read from Python, so a plain dict serves.
        with threads_kept(), _replaced(numba.typed, "Dict", dict):
            import ffcv.loader
    except (ImportError, OSError) as error:
        raise UserError(
            f"data.backend=ffcv: the package ffcv is installed but cannot be imported ({error}); "
            f"install it again: {_INSTALL}"
        ) from error
