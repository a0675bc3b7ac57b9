"""Named components, of which an unknown one is answered with the nearest known one."""

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Generic, TypeVar

from pipelines.errors import UserError, did_you_mean

T = TypeVar("T")


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

    def items(self) -> ItemsView[str, T]:
        return self._items.items()

    def values(self) -> ValuesView[T]:
        return self._items.values()

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
