"""A state (what `state_dict` returns) as one safetensors file, so that reading it executes nothing.

Tensors are the file's tensors. All else, down to where each tensor belongs, is JSON in the file's metadata.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_KEY = "state"  # of the metadata
_TENSOR, _MAPPING, _TUPLE = "tensor", "mapping", "tuple"  # the keys that stand for what JSON has not


def write_state(path: Path, state: Any) -> None:
    """state: nested dicts, lists and tuples of tensors, numbers, text, booleans and None. Raises TypeError for others.

    A tensor comes back with its shape, its type and the order in which it lies in memory.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_taken_apart(state, tensors))
    save_file(on_the_host(tensors), path, {_KEY: text})


def read_state(path: Path) -> Any:
    """What `write_state` was given, on the CPU. Other files raise OSError, ValueError, KeyError or SafetensorError."""
    with safe_open(path, "pt") as file:
        return _put_together(json.loads(file.metadata()[_KEY]), file)


def on_the_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in the CPU's memory, row by row, as a file has them. Waits for a GPU once, not for each tensor."""
    copies = {
        name: tensor.detach().contiguous().to("cpu", non_blocking=True, copy=True) for name, tensor in tensors.items()
    }
    if any(tensor.is_cuda for tensor in tensors.values()):
        torch.cuda.current_stream().synchronize()
    return copies


def tensor_bytes(state: Any) -> int:
    """Of all tensors in a state: about the size of its file."""
    if isinstance(state, torch.Tensor):
        return int(state.nbytes)
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(tensor_bytes, inner))


def _taken_apart(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name, value = str(len(tensors)), value.detach()
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        # A file's tensors lie row by row: this one is turned so that it does, without changing its order in memory.
        tensors[name] = value.permute(order)
        return {_TENSOR: [name, order]}
    if isinstance(value, dict):
        return {_MAPPING: [[key, _taken_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_taken_apart(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_taken_apart(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _put_together(value: Any, file: Any) -> Any:
    if isinstance(value, list):
        return [_put_together(item, file) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == _TENSOR:
        name, order = content
        return file.get_tensor(name).permute([order.index(i) for i in range(len(order))])
    if kind == _TUPLE:
        return tuple(_put_together(item, file) for item in content)
    return {key: _put_together(item, file) for key, item in content}
