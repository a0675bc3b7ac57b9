"""The C function that decodes a region of a JPEG: compiled at its first use on a machine, and kept on disk.

libjpeg-turbo reports errors by a jump out of the decoder, and the layout of its decoder is known to its headers alone,
so that neither numba nor ctypes can call it without some lines of C between.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

from pipelines.backends.kernel_cache import keep, kept
from pipelines.locations import cache_root

log = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_suffix(".c")
_SECONDS = 120  # in which a compiler that works has long ended


def library() -> ctypes.CDLL | None:
    """What has `fastgen_jpeg_region` (its source says what it takes), or None, and a log line, where it cannot be
    compiled."""
    command = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-shared", "-fPIC", str(_SOURCE)]
    made_of = repr((_SOURCE.read_bytes(), platform.machine(), command[:-1])).encode()
    path = cache_root() / "compiled" / f"{_SOURCE.stem}.{hashlib.sha256(made_of).hexdigest()[:32]}.so"
    if kept(path) is not None:
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # it was compiled with another libjpeg than this machine's
            pass
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name
            # The library behind what needs it, as linkers want it.
            subprocess.run(
                [*command, "-o", made, "-ljpeg"], check=True, capture_output=True, text=True, timeout=_SECONDS
            )
            found = ctypes.CDLL(str(made))
            keep(path, made.read_bytes())
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        log.warning(
            "JPEGs are decoded whole, which takes 1.3 to 1.5 times as long as the regions that are shown: %s "
            "(apt-get install gcc libjpeg-dev)", said
        )  # fmt: skip
        return None
    return found
