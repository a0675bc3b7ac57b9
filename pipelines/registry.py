"""Named components: an unknown name is answered with the nearest known one."""

from typing import NoReturn, TypeVar

from pipelines.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(dict[str, T]):
    """A dictionary from names to components. An unknown name raises UserError. what: the setting that takes a name."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def add(self, name: str, item: T) -> T:
        assert name not in self, f"{self.what} '{name}' is registered twice"
        self[name] = item
        return item

    def __missing__(self, name: str) -> NoReturn:
        raise UserError(f"unknown {self.what} '{name}': {did_you_mean(name, self)}")
