"""The user's mistakes: told in one line, with the nearest known name where one is wrong."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, what follows from it, what to do.

    Command-line entries print the message without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(" ".join(message.split())))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it (IPython asks for this)."""
        return [f"{type(self).__name__}: {self}"]


def shown(text: str) -> str:
    """Text that every terminal shows: bytes of a file's name that are no UTF-8, and control characters, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Note(UserWarning):
    """What a user should know of how input was understood. Commands tell it in one line."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'? known: ..."` for a word that is none of `known`."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}known: {', '.join(known)}"
