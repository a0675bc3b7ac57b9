"""Named components, and the one-line errors that name the nearest one when a name is wrong."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, what follows from it, what to do.

    Command-line entries print the message without a traceback and exit with code 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'? known: ..."` for a word that is none of `known`."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known)}"


class Registry(Generic[T]):
    """A dictionary from names to components that answers an unknown name with the nearest known one."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        assert name not in self._items, f"{self.what} '{name}' is registered twice"
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise UserError(f"unknown {self.what} '{name}': {did_you_mean(name, self._items)}")
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
