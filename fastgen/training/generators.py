"""The random numbers of a process: PyTorch's on its devices, NumPy's and Python's."""

import random
from typing import Any

import numpy as np
import torch


def generator_states() -> dict[str, Any]:
    """The states of all generators, as `write_state` takes them."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (what other libraries draw from)
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": [version, torch.tensor(numbers), gauss],
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Go on with the numbers that would have come after `generator_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
