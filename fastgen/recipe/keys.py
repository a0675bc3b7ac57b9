"""What each key of a recipe means: its type, its default, the values that have names, and its sentence.

The sentences stand where the keys are defined, as the comment behind a field or as "name: sentence" in the docstring of
its dataclass.
"""

import inspect
import re
import types
import typing
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from fastgen.recipe.completion import values_of
from fastgen.recipe.schema import Recipe, known_keys
from pipelines.errors import UserError, did_you_mean

_TYPES = {int: "integer", float: "number", str: "text", bool: "true or false"}
_COMMENT = re.compile(r"^    (\w+): [^#\n]*?(?:\(\n\s+)?[^#\n]*?  # (.*)$", re.MULTILINE)
# "a, b: sentence", up to the next one or to the end of the paragraph.
_ENTRY = re.compile(
    r"(?:^|(?<=[.;:] ))((?:\w+, )*\w+(?: and \w+)?): (.+?)(?=[.;] (?:\w+, )*\w+(?: and \w+)?: |\n\n|$)", re.S
)


@dataclass(frozen=True)
class Key:
    """type and values in words; default as it is written."""

    name: str
    type: str
    default: str
    values: tuple[str, ...]
    meaning: str


def all_keys() -> list[Key]:
    """In the order of the schema."""
    return [Key(name, *_described(name), tuple(values_of(name)), _meaning(name)) for name in known_keys()]


def find(pattern: str | None) -> list[Key]:
    """Those whose name has `pattern` in it, or matches it as a shell's (data.*). Raises UserError where none does."""
    keys = all_keys()
    if pattern is None:
        return keys
    found = [key for key in keys if pattern in key.name or fnmatch(key.name, pattern)]
    found = found or [key for key in keys if pattern.lower() in key.meaning.lower()]
    if not found:
        raise UserError(
            f"no key is like '{pattern}': {did_you_mean(pattern, known_keys()).partition('known:')[0]}"
            "`fastgen keys` lists all"
        )
    return found


def _holder(name: str) -> tuple[type, str]:
    """The dataclass that defines a key, and the field's name in it."""
    holder: Any = Recipe
    *groups, field = name.split(".")
    for group in groups:
        holder = typing.get_type_hints(holder)[group]
    return next(each for each in holder.__mro__ if field in inspect.get_annotations(each)), field


def _described(name: str) -> tuple[str, str]:
    """Type and default, in words."""
    holder, field = _holder(name)
    hint, default = typing.get_type_hints(holder)[field], known_keys()[name]
    optional = isinstance(hint, types.UnionType) and type(None) in hint.__args__
    if optional:
        (hint,) = (each for each in hint.__args__ if each is not type(None))
    origin = typing.get_origin(hint)
    kind = {list: "list", dict: "mapping"}.get(origin) or _TYPES.get(hint, "list")
    text = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
    return kind + " or null" * optional, text


def _meaning(name: str) -> str:
    holder, field = _holder(name)
    comments = dict(_COMMENT.findall(inspect.getsource(holder)))
    if field in comments:
        return re.sub(r"\bNone\b", "null", comments[field])
    text = inspect.getdoc(holder) or ""
    for paragraph in text.split("\n\n"):
        for names, sentence in _ENTRY.findall(" ".join(paragraph.split())):
            if field in re.split(r", | and ", names):
                return re.sub(r"\bNone\b", "null", sentence.rstrip("."))
    return ""


def told(keys: list[Key], markdown: bool) -> str:
    """As lines for a terminal, or as the table of docs/keys.md."""
    if not markdown:
        heads = [f"{key.name}={key.default}   ({', '.join(key.values) or key.type})" for key in keys]
        return "\n".join(f"{head}\n    {key.meaning}" for head, key in zip(heads, keys, strict=True))
    lines = [
        "# Keys", "", "What a recipe can say, and `key=value` on a command line (`fastgen keys --markdown`).", "",
        "| key | default | type | meaning |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for key in keys:
        values = ", ".join(f"`{value}`" for value in key.values) or key.type
        lines.append(f"| `{key.name}` | `{key.default}` | {values} | {key.meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)
