"""Options of the benchmarks' commands."""

from fastgen.sweeps.sweep import split_options
from pipelines.errors import UserError, did_you_mean


class Options:
    """ "--name value" pairs with defaults, and settings key=value. Raises UserError for others."""

    def __init__(self, arguments: list[str], defaults: dict[str, str], settings: bool = False) -> None:
        rest, given = split_options(arguments, *defaults)
        self.settings = [argument for argument in rest if settings and "=" in argument]
        if len(self.settings) < len(rest):
            raise UserError(
                f"'{next(r for r in rest if r not in self.settings)}' is no option; known: {', '.join(defaults)}"
            )
        self._values = {name: given[name] or default for name, default in defaults.items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def count(self, name: str) -> int:
        text = self[name]
        if not text.isdigit() or int(text) < 1:
            raise UserError(f"{name}={text} must be a whole number of at least 1")
        return int(text)

    def chosen(self, name: str, known: list[str]) -> list[str]:
        """Those named, separated by semicolons, or all."""
        names = [part.strip() for part in self[name].split(";")] if self[name] else known
        for one in names:
            if one not in known:
                raise UserError(f"{name} has '{one}': {did_you_mean(one, known)}")
        return names
