"""Many file names in two arrays: ImageNet's 1.28 million take 33 MB, where Python strings would take 100."""

from collections.abc import Iterable, Iterator

import numpy as np


class Names:
    """A fixed list of strings. data: uint8, their UTF-8 bytes; ends: int64 (n,), where each one ends in `data`."""

    def __init__(self, data: np.ndarray, ends: np.ndarray) -> None:
        self.data, self.ends = data, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> "Names":
        data, ends = bytearray(), []
        for name in names:
            data += name.encode("utf-8", "surrogateescape")  # a file name need not be valid UTF-8
            ends.append(len(data))
        return cls(np.frombuffer(bytes(data), np.uint8), np.asarray(ends, np.int64))

    @classmethod
    def concatenate(cls, parts: list["Names"]) -> "Names":
        before = np.cumsum([0] + [len(part.data) for part in parts])
        empty = cls.pack([])
        return cls(
            np.concatenate([empty.data] + [part.data for part in parts]),
            np.concatenate([empty.ends] + [part.ends + start for part, start in zip(parts, before, strict=False)]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
