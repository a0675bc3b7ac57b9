"""The C function that decodes a region of a JPEG: compiled at its first use on a machine, and kept on disk.

libjpeg-turbo reports errors by a jump out of the decoder, and the layout of its decoder is known to its headers alone,
so that neither numba nor ctypes can call it without some lines of C between.
"""

import ctypes
import hashlib
import logging
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from pipelines.backends.kernel_cache import keep, kept
from pipelines.locations import cache_root

log = logging.getLogger(__name__)

_REMEDY = "apt-get install gcc libc6-dev libjpeg-dev"
_SOURCE = Path(__file__).with_suffix(".c")


def library() -> ctypes.CDLL | None:
    """What has `fastgen_jpeg_region` (its source says what it takes), or None, and a log line, where it cannot be
    compiled."""
    command = [*os.environ.get("CC", "cc").split(), "-O2", "-shared", "-fPIC"]
    made_of = repr((_SOURCE.read_bytes(), platform.machine(), command)).encode()
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
            command += [str(_SOURCE), "-o", str(made), "-ljpeg"]
            subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=60)
            found = ctypes.CDLL(str(made))
            keep(path, made.read_bytes())
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).splitlines()[0]
        log.warning("JPEGs are decoded whole, which takes longer than their shown regions (%s): %s", reason, _REMEDY)
        return None
    return found
