"""The console that tables and lines are printed on."""

from rich.console import Console

_FILE_WIDTH = 160  # columns: no terminal says how wide a file or a pipe is, and rich would take 80


def console() -> Console:
    """A rich console that neither colours numbers nor breaks tables where output goes to a file."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=_FILE_WIDTH)
