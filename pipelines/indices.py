"""Files of sample indices."""

from io import BytesIO
from pathlib import Path

import numpy as np

from pipelines.durable import read_regular
from pipelines.errors import UserError


def read_indices(path: Path, samples: int, key: str) -> np.ndarray:
    """The sample indices in a .npy file: int64 (n,) in [0, samples).

    key: the setting that names it. Raises UserError for a file that holds none.
    """
    named = f"{key}={path}"
    try:
        content = read_regular(path)
    except OSError as error:
        raise UserError(f"{named} cannot be read ({error.strerror or error}); name a file of sample indices") from None
    try:
        indices = np.lib.format.read_array(BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{named} is no array of numpy.save ({error}); it must hold sample indices") from None
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise UserError(f"{named} holds {indices.dtype} {indices.shape}; it must hold whole numbers (n,)")
    outside = indices[(indices < 0) | (indices >= samples)]
    if len(outside):
        raise UserError(f"{named} names sample {outside[0]}, and there are {samples:,}, from 0 on")
    return indices.astype(np.int64)
